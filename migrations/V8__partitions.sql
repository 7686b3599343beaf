-- Version 14 does not see that a partition was attached or detached: what it decided about a table when it first decoded
-- one of its rows it keeps until a publication changes. So one is changed in the same transaction, to what it was.

-- Takes the root of a tree out of its publication and puts it back: whoever attaches to it holds its lock already, so
-- that nobody is waited for. Where that lock is somebody else's, an option is set to what it is.
create function rowcast.refresh(captured rowcast.capture, relation oid) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    publication text;
    name        text;
begin
    for publication, name in
        select p.pubname, format('%I.%I', n.nspname, c.relname)
        from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
             join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
        where r.prrelid = relation and c.relkind = 'p' and p.pubname in (captured.publication, captured.inserts)
    loop
        begin
            execute format('alter publication %I drop table only %s', publication, name);
            execute format('alter publication %I add table only %s', publication, name);
        exception when others then
            execute format('alter publication %I set (publish_via_partition_root = %s)', publication, captured.via_root);
        end;
    end loop;
exception when others then
    -- No later look makes up for it. Whoever runs the command can.
    raise warning 'rowcast: PostgreSQL 14 may not see that the partitions of % have changed: %', relation::regclass, sqlerrm
        using hint = format('In this transaction, behind it: ALTER PUBLICATION %I SET (publish_via_partition_root = %s);',
                            captured.publication, captured.via_root);
end
$$;

revoke all on function rowcast.refresh(rowcast.capture, oid) from public;

-- As in V2, and version 14 is made to look again at a tree that has changed.
create or replace function rowcast.on_ddl() returns event_trigger
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
        if (item.k).kept and tg_tag = 'ALTER TABLE' and current_setting('server_version_num')::int < 150000 then
            perform rowcast.refresh(item.k, item.oid);
        end if;
        if item.object is not null then
            perform rowcast.tell((item.k).slot, tg_tag, item.object, item.channel);
        end if;
    end loop;
exception when others then
    raise log 'rowcast: % is left to the next look at the tables: %', tg_tag, sqlerrm;
end
$$;
