-- A DROP holds its lock on the table until its transaction ends. With thousands of captured tables it took seconds to look
-- at each of them for a key that went with what was dropped.

-- The members of the publication of updates that may have nothing to identify their rows any more: they, or one of their
-- partitions, lack the index that does. One question for all of them.
create function rowcast.bereft(captured rowcast.capture) returns setof oid
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    with recursive lacking as (
        select c.oid, c.relkind
        from pg_class c left join pg_index i
             on i.indrelid = c.oid and i.indisvalid and i.indimmediate
                and case c.relreplident when 'n' then false when 'i' then i.indisreplident else i.indisprimary end
        -- FULL needs none, but a tree is compared with its key.
        where c.relkind in ('r', 'p') and c.relpersistence = 'p' and i.indrelid is null
          and (c.relreplident <> 'f' or c.relkind = 'p')
    ), above as (
        select l.oid, l.relkind from lacking l
        union
        -- Of a tree's own tables only the topmost counts.
        select i.inhparent, a.relkind
        from above a join pg_inherits i on i.inhrelid = a.oid join pg_class c on c.oid = i.inhrelid
        where a.relkind = 'r' and c.relispartition
    )
    select distinct a.oid
    from above a join pg_publication_rel r on r.prrelid = a.oid join pg_publication p on p.oid = r.prpubid
    where p.pubname = captured.publication and (a.relkind = 'r' or captured.via_root)
$$;

revoke all on function rowcast.bereft(rowcast.capture) from public;

-- As in V8, but for that.
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
        select k, b.member, false, null, null
        from rowcast.capture k cross join lateral rowcast.bereft(k) b(member)
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
