-- A table that loses its key has to leave the publication of updates at once: until then its UPDATE and DELETE fail. But
-- whoever changes a publication holds it until his transaction ends (with a lock of the server's own from version 15
-- on), and nobody waits for that here. Then the table is lent REPLICA IDENTITY FULL, with which it can stay, in the
-- transaction that takes its key. It is given back when the publication is free again; a few seconds later, if nobody
-- keeps it.

create table rowcast.lent (
    relation oid    not null primary key,
    -- What pg_class.relreplident was.
    identity "char" not null
);

comment on table rowcast.lent is 'Tables that have REPLICA IDENTITY FULL until they can leave their publication';

-- Lends it to a table in the publication of updates that has nothing to identify its rows, or to its partitions that have
-- not. Gives whether that was so. What it needs it either has already, or does not wait for.
create function rowcast.lend(captured rowcast.capture, relation oid) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    at   record := rowcast.member(captured.publication, relation);
    part record;
begin
    if not at.there or rowcast.is_identified(relation, captured.via_root, at.listed, at.filtered) then
        return false;
    end if;
    for part in
        select c.oid, c.relreplident as identity, format('%I.%I', n.nspname, c.relname) as name
        from pg_class c join pg_namespace n on n.oid = c.relnamespace join rowcast.identity i on i.oid = c.oid
        where c.oid in (select t.relid from pg_partition_tree(lend.relation) t union select lend.relation)
          and i.columns is null and not i.whole
    loop
        insert into rowcast.lent values (part.oid, part.identity) on conflict do nothing;
        execute format('alter table only %s replica identity full', part.name);
    end loop;
    if not rowcast.is_identified(relation, captured.via_root, at.listed, at.filtered) then
        raise exception 'not even with REPLICA IDENTITY FULL it could stay in the publication';
    end if;
    return true;
end
$$;

-- Gives back what was lent to a table, and puts it where it belongs, both or neither. Waits for as long as lock_timeout
-- lets it: for whoever changes the publication first, so that the table is not kept from its writers meanwhile.
create function rowcast.repay(relation oid) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    captured rowcast.capture;
    was      "char";
    now_is   "char";
    name     text;
    near     oid;
begin
    perform pg_advisory_xact_lock(1920295796, hashtext(k.publication)) from rowcast.capture k where k.kept;
    delete from rowcast.lent l where l.relation = repay.relation returning l.identity into was;
    if not found then
        return;
    end if;
    select c.relreplident, format('%I.%I', n.nspname, c.relname) into now_is, name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = repay.relation;
    if not found then
        return;
    end if;
    -- Somebody may have chosen another one meanwhile. An index that was dropped identifies nothing.
    if now_is = 'f' then
        execute format('alter table only %s replica identity %s', name,
                       case was when 'd' then 'default' else 'nothing' end);
    end if;
    for captured in select k.* from rowcast.capture k where k.kept loop
        for near in
            select repay.relation union select a.relid::oid from pg_partition_ancestors(repay.relation) a
        loop
            perform rowcast.settle(captured, near, false);
        end loop;
    end loop;
end
$$;

-- The event trigger. Whatever goes wrong in here is left to rowcast's next look at the tables, and told in the
-- server's log: the application's own command never fails of it. It runs as its owner, so that whoever changes a
-- table needs no right on the publications, and so that whoever owns this function gains nothing from a superuser's
-- commands.
create or replace function rowcast.on_ddl() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '10ms'
as $$
declare
    item  record;
    stack text;
    why   text;
begin
    get diagnostics stack = pg_context;
    if stack ~ 'function rowcast[.](lend|repay)[(]' then
        -- What is lent and given back is no change of anybody's.
        return;
    end if;
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
            why := sqlerrm;
            begin
                if not rowcast.lend(item.k, item.oid) then
                    raise log 'rowcast: % of % is left to the next look at the tables: %',
                        tg_tag, item.oid::regclass, why;
                end if;
            exception when others then
                raise log 'rowcast: % of % is left to the next look at the tables: %, and %',
                    tg_tag, item.oid::regclass, why, sqlerrm;
            end;
        end;
        if item.object is not null then
            perform rowcast.tell((item.k).slot, tg_tag, item.object, item.channel);
        end if;
    end loop;
exception when others then
    raise log 'rowcast: % is left to the next look at the tables: %', tg_tag, sqlerrm;
end
$$;

revoke all on function rowcast.lend(rowcast.capture, oid), rowcast.repay(oid) from public;
