-- What an event trigger needs to look after the publications in the very transaction that changes a table. Where
-- nobody may create event triggers none of this is used: rowcast then looks every few seconds by itself.

-- What each rowcast captures. Written by rowcast from its configuration at every start; changed here, it is written
-- again.
create table rowcast.capture (
    slot        text    not null primary key,
    -- For all operations.
    publication text    not null,
    -- For inserts and truncates of the tables whose UPDATE and DELETE would fail in the other one.
    inserts     text    not null,
    -- Partition trees are shown as their root.
    via_root    boolean not null,
    -- False where somebody else made the publications: then they are left as they are.
    kept        boolean not null,
    -- Changes of definitions are events, too (source.ddl).
    ddl         boolean not null
);

comment on table rowcast.capture is 'What each rowcast captures, by replication slot';

-- The tables that are wanted, as patterns of LIKE.
create table rowcast.pattern (
    slot         text    not null references rowcast.capture on delete cascade,
    -- Left out again.
    excluded     boolean not null,
    schema_like  text    not null,
    table_like   text    not null,
    primary key (slot, excluded, schema_like, table_like)
);

comment on table rowcast.pattern is 'The tables that each rowcast captures (source.tables and source.exclude)';

-- Whether a table is among those that a rowcast captures.
create function rowcast.wants(slot text, schema_name text, table_name text) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select schema_name !~ '^pg_' and schema_name not in ('information_schema', 'rowcast')
       and coalesce(bool_or(not p.excluded), false) and not coalesce(bool_or(p.excluded), false)
    from rowcast.pattern p
    where p.slot = $1 and schema_name collate "C" like p.schema_like and table_name collate "C" like p.table_like
$$;

-- The name of a table's channel.
create function rowcast.channel(schema_name text, table_name text) returns text
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select string_agg(case when name ~ '^[a-z_][a-z0-9_]*$' then name
                           else '"' || replace(name, '"', '""') || '"' end, '.' order by place)
    from unnest(array[schema_name, table_name]) with ordinality n(name, place)
$$;

-- The replica identity of tables: its columns by name, null where there is none. A deferrable or invalid index is
-- none. FULL is none where it contains virtual generated columns, which are never published.
create view rowcast.identity as
select c.oid, c.relkind as kind, c.relreplident = 'f' as whole,
       case when c.relreplident = 'f' then
           (select array_agg(a.attname::text) from pg_catalog.pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            having count(*) filter (where a.attgenerated = 'v') = 0)
       else
           (select array(select a.attname::text from pg_catalog.pg_attribute a
                         where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1]))
            from pg_catalog.pg_index i
            where i.indrelid = c.oid and i.indisvalid and i.indimmediate
              and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end)
       end as columns,
       (select array(select a.attname::text from pg_catalog.pg_attribute a
                     where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1]))
        from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate) as key
from pg_catalog.pg_class c
where c.relkind in ('r', 'p');

comment on view rowcast.identity is 'What identifies the rows of each table for logical replication';

-- Whether a table's updates and deletes can be published, with this column list and these columns of a row filter
-- (null: none): where not, the application's own UPDATE and DELETE would fail. A tree that is shown as its root needs
-- partitions that identify rows by what identifies them in the root.
create function rowcast.is_identified(relation oid, via_root boolean, listed text[], filtered text[]) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select (not via_root or own.columns is not null) and coalesce((
        select bool_and(leaf.columns is not null
                        and (listed is null or not leaf.whole and leaf.columns <@ listed)
                        and (filtered is null or filtered <@ leaf.columns)
                        and (not via_root or leaf.whole or coalesce(
                             case when own.whole then own.key else own.columns end <@ leaf.columns, false)))
        from rowcast.identity leaf
        where leaf.oid in (select t.relid from pg_partition_tree(own.oid) t where t.isleaf union select own.oid)
          and leaf.kind = 'r'), true)
    from rowcast.identity own
    where own.oid = relation
$$;

-- A table's place in a publication: its column list, the columns of its row filter, and both as they are written.
create function rowcast.member(publication text, relation oid,
                               out there boolean, out listed text[], out filtered text[], out written text)
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    there := exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                     where p.pubname = publication and r.prrelid = relation);
    written := '';
    if not there or current_setting('server_version_num')::int < 150000 then
        return;
    end if;
    select (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
            where a.attrelid = relation and a.attnum = any(r.prattrs)),
           coalesce((select ' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')'
                     from pg_attribute a where a.attrelid = relation and a.attnum = any(r.prattrs)), '')
               || coalesce(' where (' || pg_get_expr(r.prqual, relation) || ')', ''),
           -- The publication depends once on a column for its list, and once for its filter.
           case when r.prqual is not null then array(
               select a.attname::text from pg_depend d
               join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
               where d.classid = 'pg_publication_rel'::regclass and d.objid = r.oid
                 and d.refclassid = 'pg_class'::regclass and d.refobjid = relation and d.refobjsubid > 0
               group by a.attname, a.attnum
               having count(*) > case when a.attnum = any(r.prattrs) then 1 else 0 end) end
    into listed, written, filtered
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname = publication and r.prrelid = relation;
end
$$;

-- Puts a table into the publication that its replica identity allows.
create function rowcast.settle(captured rowcast.capture, relation oid, created boolean) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    in_all     record := rowcast.member(captured.publication, relation);
    in_inserts record := rowcast.member(captured.inserts, relation);
    at         record;
    name       text;
    channel    text;
    identified boolean;
    had_rows   boolean := false;
begin
    if not (in_all.there or in_inserts.there or created) then
        return;
    end if;
    at := case when in_all.there then in_all else in_inserts end;
    identified := rowcast.is_identified(relation, captured.via_root, at.listed, at.filtered);
    if in_all.there = identified and in_inserts.there <> identified then
        return;
    end if;
    -- Nobody waits here for somebody else's transaction: that could become a deadlock of the application's.
    if not pg_try_advisory_xact_lock(1920295796, hashtext(captured.publication)) then
        raise exception 'another transaction is changing the publication %', captured.publication;
    end if;
    select format('%I.%I', n.nspname, c.relname), rowcast.channel(n.nspname, c.relname) into name, channel
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
    if in_all.there and not identified then
        execute format('alter publication %I drop table only %s', captured.publication, name);
    end if;
    if in_inserts.there and identified then
        execute format('alter publication %I drop table only %s', captured.inserts, name);
    end if;
    if identified and not in_all.there then
        execute format('alter publication %I add table only %s%s', captured.publication, name, at.written);
    elsif not identified and not in_inserts.there then
        execute format('alter publication %I add table only %s%s', captured.inserts, name, at.written);
    end if;
    if created and not in_all.there and not in_inserts.there then
        -- CREATE TABLE AS fills the table first: for the stream those rows came before.
        execute format('select exists (select from only %s)', name) into had_rows;
    end if;
    if had_rows then
        perform pg_logical_emit_message(true, 'rowcast.gap.new_table.' || captured.slot, convert_to(channel, 'UTF8'));
    end if;
end
$$;

-- Tells of a change of a table's definition, where that is wanted.
create function rowcast.tell(slot text, command text, object text, channel text) returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    select pg_logical_emit_message(true, 'rowcast.ddl.' || slot, convert_to(json_build_object(
        'command', command, 'object', object, 'table', channel, 'statement', left(current_query(), 10000))::text, 'UTF8'))
$$;

-- The event trigger. Whatever goes wrong in here is left to rowcast's next look at the tables, and told in the
-- server's log: the application's own command never fails of it. It runs as its owner, so that whoever changes a
-- table needs no right on the publications, and so that whoever owns this function gains nothing from a superuser's
-- commands.
create function rowcast.on_ddl() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '10ms'
as $$
declare
    item record;
begin
    for item in
        with touched as (
            select coalesce(i.indrelid, d.objid) as relation,
                   bool_or(d.command_tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')) as created,
                   max(d.object_type) as object
            from pg_event_trigger_ddl_commands() d left join pg_index i on i.indexrelid = d.objid
            where d.classid = 'pg_class'::regclass and d.schema_name is distinct from 'pg_temp'
            group by 1
        ), near as (
            select t.relation, t.created, t.object, t.relation as oid, 0 as height from touched t
            union all
            select t.relation, t.created, t.object, a.relid, a.height
            from touched t, pg_partition_ancestors(t.relation) with ordinality a(relid, height)
            where a.relid <> t.relation
        ), places as (
            select k, n.relation, n.created, n.object, n.oid, n.height,
                   rowcast.wants(k.slot, s.nspname::text, c.relname::text) as wanted,
                   rowcast.channel(s.nspname::text, c.relname::text) as channel
            from near n join pg_class c on c.oid = n.oid join pg_namespace s on s.oid = c.relnamespace,
                 rowcast.capture k
            where c.relkind in ('r', 'p') and c.relpersistence = 'p' and (k.kept or k.ddl)
        ), tops as (
            select p.*, p.wanted and not exists (
                       select from places above where (above.k).slot = (p.k).slot and above.relation = p.relation
                                                  and above.height > p.height and above.wanted) as top
            from places p
        )
        select k, oid, created and top and oid = relation and (k).kept as created,
               -- Told once, of the table that is captured.
               case when (k).ddl and top then object end as object, channel
        from tops
        union all
        -- What is dropped can take a key with it, and does not say whose.
        select k, r.prrelid, false, null, null
        from rowcast.capture k join pg_publication p on p.pubname = k.publication
             join pg_publication_rel r on r.prpubid = p.oid
        where k.kept and tg_tag like 'DROP %'
    loop
        begin
            if (item.k).kept then
                perform rowcast.settle(item.k, item.oid, item.created);
            end if;
        exception when others then
            raise log 'rowcast: % of % is left to the next look at the tables: %', tg_tag, item.oid::regclass, sqlerrm;
        end;
        if item.object is not null then
            perform rowcast.tell((item.k).slot, tg_tag, item.object, item.channel);
        end if;
    end loop;
exception when others then
    raise log 'rowcast: % is left to the next look at the tables: %', tg_tag, sqlerrm;
end
$$;

-- Tables that are gone, for source.ddl.
create function rowcast.on_drop() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rowcast.tell(k.slot, tg_tag, d.object_type, rowcast.channel(d.schema_name, d.object_name))
    from pg_event_trigger_dropped_objects() d, rowcast.capture k
    where k.ddl and d.object_type = 'table' and not d.is_temporary
      and rowcast.wants(k.slot, d.schema_name, d.object_name);
exception when others then
    raise log 'rowcast: % is not told: %', tg_tag, sqlerrm;
end
$$;

revoke all on function rowcast.wants(text, text, text), rowcast.channel(text, text),
    rowcast.is_identified(oid, boolean, text[], text[]), rowcast.member(text, oid),
    rowcast.settle(rowcast.capture, oid, boolean), rowcast.tell(text, text, text, text),
    rowcast.on_ddl(), rowcast.on_drop() from public;
