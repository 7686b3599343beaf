-- What settles tables knows more of what an ALTER TABLE may have done, and leaves nobody's writers failing for want of a
-- right; and nobody is granted by default what is the owner's alone.

-- What a function's text means depends on the session that runs it: with standard_conforming_strings off an application's
-- session could say nothing.
alter function rowcast.say(text, bytea) set standard_conforming_strings = on;

-- Whether a table that nothing identifies makes its own UPDATE and DELETE fail in a publication of updates. The server
-- minds no generated column of a key before version 18, unless there is a column list.
create function rowcast.hinders(relation oid, listed text[]) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select $2 is not null or current_setting('server_version_num')::int >= 180000 or not exists (
        select from rowcast.tree($1) t(member) join pg_class c on c.oid = t.member join pg_index i on i.indrelid = c.oid
                    join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1])
        where i.indisvalid and i.indimmediate and a.attgenerated <> ''
          and case c.relreplident when 'i' then i.indisreplident when 'n' then false else i.indisprimary end)
$$;

-- As in V4, but for this: a table may leave a publication that it may not be added to, since only its owner may publish
-- it. Where its writers would fail, it leaves.
create or replace function rowcast.move(captured rowcast.capture, relation oid, created boolean) returns void
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
    begin
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
    exception when insufficient_privilege then
        if identified or not in_all.there or not rowcast.hinders(relation, at.listed) then
            raise;
        end if;
        execute format('alter publication %I drop table only %s', captured.publication, name);
        raise warning 'rowcast: % is captured no more: it has lost its key, and only its owner may add it to the publication %',
            name, captured.inserts;
    end;
    if created and not in_all.there and not in_inserts.there then
        -- CREATE TABLE AS fills the table first: for the stream those rows came before.
        execute format('select exists (select from only %s)', name) into had_rows;
    end if;
    if had_rows then
        perform rowcast.say('rowcast.gap.new_table.' || captured.slot, convert_to(channel, 'UTF8'));
    end if;
end
$$;

-- An owner's own choice of FULL stays, if the table was lent it already: for the catalog nothing changes then, so only the
-- statement tells.
create function rowcast.keep(relation oid) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set standard_conforming_strings = on
as $$
begin
    delete from rowcast.lent l using pg_class c
    where l.relation = keep.relation and c.oid = l.relation
      and current_query() ~* ('(^|\W)' || regexp_replace(c.relname, '([^[:alnum:]_])', '\\\1', 'g')
                              || '\W[^;]*\mreplica\s+identity\s+full\M')
      and not exists (select from rowcast.identifying i where i.transaction = pg_current_xact_id_if_assigned());
exception when others then
    raise warning 'rowcast: a replica identity that % was lent may be taken back: %', keep.relation::regclass, sqlerrm;
end
$$;

revoke all on function rowcast.hinders(oid, text[]), rowcast.keep(oid) from public;

-- As in V12, but for both: an ALTER TABLE is asked whether it has chosen an identity, and those that inherit are looked at,
-- too. What cannot be told of a definition leaves all tables as they were settled. And what is left is a warning that only
-- the server's log has: LOG has a rank there at which the server adds all that the client has sent in one text, passwords
-- among it. (That its owner gains nothing from a superuser's commands, as V2 says, holds for this text alone: he can replace
-- it by one that runs as whoever gives the command.)
create or replace function rowcast.on_ddl() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '10ms'
    set client_min_messages = error
as $$
declare
    item record;
begin
    if tg_tag = 'ALTER TABLE' then
        perform rowcast.keep(d.objid) from pg_event_trigger_ddl_commands() d where d.classid = 'pg_class'::regclass;
    end if;
    for item in
        with recursive touched as (
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
        ), beneath as (
            -- What a parent loses, they lose, too, and only the parent is named.
            select i.inhrelid as oid from touched t join pg_inherits i on i.inhparent = t.relation
            where tg_tag = 'ALTER TABLE'
            union
            select i.inhrelid from beneath b join pg_inherits i on i.inhparent = b.oid
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
               case when (k).ddl and top then object end as object, channel, true as is_near
        from tops
        union all
        -- Of them those that may have lost a key, or got one: there may be thousands.
        select k, b.oid, false, null, null, false
        from rowcast.capture k cross join lateral (
                 select l.member from rowcast.bereft(k) l(member)
                 union
                 select r.prrelid from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                 where p.pubname = k.inserts
             ) changed join beneath b on b.oid = changed.member
        where k.kept and exists (select from beneath)
        union all
        -- What is dropped can take a key with it, and does not say whose.
        select k, b.member, false, null, null, false
        from rowcast.capture k cross join lateral rowcast.bereft(k) b(member)
        where k.kept and (tg_tag like 'DROP %' or tg_tag = 'ALTER TYPE')
    loop
        begin
            if (item.k).kept then
                perform rowcast.settle(item.k, item.oid, item.created);
            end if;
        exception when others then
            raise warning 'rowcast: % of % is left to the next look at the tables: %', tg_tag, item.oid::regclass, sqlerrm;
        end;
        if (item.k).kept and item.is_near and tg_tag = 'ALTER TABLE' and current_setting('server_version_num')::int < 150000 then
            perform rowcast.refresh(item.k, item.oid);
        end if;
        if item.object is not null then
            begin
                perform rowcast.tell((item.k).slot, tg_tag, item.object, item.channel);
            exception when others then
                raise warning 'rowcast: % of % is not told: %', tg_tag, item.channel, sqlerrm;
            end;
        end if;
    end loop;
exception when others then
    raise warning 'rowcast: % is left to the next look at the tables: %', tg_tag, sqlerrm;
end
$$;

-- This warning is the client's, too.
alter function rowcast.refresh(rowcast.capture, oid) set client_min_messages = warning;

-- As in V10, but for the rank of what is logged.
create or replace function rowcast.on_types() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '10ms'
    set client_min_messages = error
as $$
begin
    if not exists (select from rowcast.capture) then
        return;
    end if;
    -- A table's own row type, too, where something else uses it.
    if tg_tag in ('ALTER TYPE', 'ALTER DOMAIN') or exists (
           select from pg_event_trigger_ddl_commands() d join pg_class c on c.oid = d.objid
                       join pg_type t on t.oid = c.reltype
                       join pg_depend u on u.refclassid = 'pg_type'::regclass and u.refobjid in (t.oid, t.typarray)
           where d.classid = 'pg_class'::regclass and u.deptype = 'n') then
        -- Twice: the server sorts what subtransactions say by where it ends, and other changes by where they begin. So the
        -- first row behind it may come before the second one, not before the first.
        perform rowcast.say('rowcast.types.' || slot, '') from rowcast.capture, generate_series(1, 2);
    end if;
exception when others then
    raise warning 'rowcast: what % has changed of a type is seen at the next connection: %', tg_tag, sqlerrm;
end
$$;

-- As in V2, but for that.
create or replace function rowcast.on_drop() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set client_min_messages = error
as $$
begin
    perform rowcast.tell(k.slot, tg_tag, d.object_type, rowcast.channel(d.schema_name, d.object_name))
    from pg_event_trigger_dropped_objects() d, rowcast.capture k
    where k.ddl and d.object_type = 'table' and not d.is_temporary
      and rowcast.wants(k.slot, d.schema_name, d.object_name);
exception when others then
    raise warning 'rowcast: % is not told: %', tg_tag, sqlerrm;
end
$$;

-- Whoever may read the key may ask for what rowcast.snapshot does, and whoever may write the rest decides what is captured.
-- ALTER DEFAULT PRIVILEGES gives rights on all that a role makes, these tables and functions among them: taken back from
-- whom it names. What somebody else was granted was meant.
do $$
declare
    statement text;
begin
    for statement in
        with given as (
            select distinct d.defaclrole as owner, d.defaclobjtype::text as kind, a.grantee
            from pg_catalog.pg_default_acl d cross join lateral pg_catalog.aclexplode(d.defaclacl) a
            where a.grantee <> d.defaclrole
              and d.defaclnamespace in (0, 'rowcast'::pg_catalog.regnamespace)
        ), ours as (
            select 'r' as kind, pg_catalog.format('all on table rowcast.%I', c.relname) as rights, c.relowner as owner
            from pg_catalog.pg_class c
            where c.relnamespace = 'rowcast'::pg_catalog.regnamespace and c.relkind in ('r', 'v')
            union all
            select 'f', 'all on function ' || p.oid::pg_catalog.regprocedure::text, p.proowner
            from pg_catalog.pg_proc p
            where p.pronamespace = 'rowcast'::pg_catalog.regnamespace and p.proname not in ('publish', 'emit')
            union all
            select 'n', 'create on schema rowcast', n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'rowcast'
        )
        select pg_catalog.format('revoke %s from %s cascade', o.rights,
                                 case when g.grantee = 0 then 'public' else g.grantee::pg_catalog.regrole::text end)
        from ours o join given g using (owner, kind)
    loop
        execute statement;
    end loop;
end
$$;
