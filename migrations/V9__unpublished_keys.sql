-- Before version 18 a generated column is not published. A replica identity with one would be told without it, and what
-- is left of a key identifies nothing: the table goes where those without a usable replica identity are.

-- As in V2, but for that.
create or replace view rowcast.identity as
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
              and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end
              and not exists (select from pg_catalog.pg_attribute a
                              where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1])
                                and a.attgenerated <> ''
                                and pg_catalog.current_setting('server_version_num')::int < 180000))
       end as columns,
       (select array(select a.attname::text from pg_catalog.pg_attribute a
                     where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1]))
        from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate) as key
from pg_catalog.pg_class c
where c.relkind in ('r', 'p');

-- As in V6, but nothing is lent to a table that has such a key: its UPDATE and DELETE do not fail, and what it had as its
-- replica identity could not be given back.
create or replace function rowcast.lend(captured rowcast.capture, relation oid) returns boolean
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
          and not exists (select from pg_index x
                          where x.indrelid = c.oid and x.indisvalid and x.indimmediate
                            and case c.relreplident when 'd' then x.indisprimary when 'i' then x.indisreplident end)
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
