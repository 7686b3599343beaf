-- A transaction that uses one snapshot for all its statements (REPEATABLE READ, SERIALIZABLE) sees the catalog's tables as they
-- were when it began, and the server itself goes by the newest: a table that was added to a publication meanwhile seemed to be
-- in none when it lost its key, and stayed where its UPDATE and DELETE fail. And no DROP TABLE waits for strangers.

-- The row that lists a table in a publication, by the newest catalog: the server is asked. Zero where there is none, null where
-- that cannot be seen. A list of columns or a filter that is another one is another row.
create or replace function rowcast.listed(publication text, relation oid) returns oid
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    place text[];
    row   oid;
begin
    -- Its name now, whatever the snapshot shows.
    select object_names into place from pg_identify_object_as_address('pg_class'::regclass, relation, 0);
    select a.objid into row from pg_get_object_address('publication relation', place, array[publication]) a;
    -- The answer comes with a lock, for which whoever drops the table would wait until this transaction ends.
    raise exception using errcode = 'RC001';
exception
    when sqlstate 'RC001' then
        return row;
    when undefined_object or undefined_table or invalid_schema_name then
        return 0;
    when others then
        return null;
end
$$;

-- Whether this transaction's snapshot shows of a table's name, and of its place in both publications, what there is.
create or replace function rowcast.is_shown(captured rowcast.capture, relation oid) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select exists (
               select from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where c.oid = $2 and to_regclass(format('%I.%I', n.nspname, c.relname)) = c.oid)
       and not exists (
               select from unnest(array[($1).publication, ($1).inserts]) p(name)
               where rowcast.listed(p.name, $2) is distinct from coalesce((
                   select r.oid from pg_publication_rel r join pg_publication p2 on p2.oid = r.prpubid
                   where p2.pubname = p.name and r.prrelid = $2), 0))
$$;

-- What this transaction has locked so that nobody else can change its definition: whoever takes a table's key has it so, and
-- DROP INDEX CONCURRENTLY by the weaker of the two.
create or replace function rowcast.held() returns setof oid
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select l.relation from pg_locks l
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.granted
      and l.mode in ('AccessExclusiveLock', 'ShareUpdateExclusiveLock')
$$;

-- Of a table and what is partitioned below it, that which this transaction holds and which has no index, by the newest catalog,
-- that identifies its rows. Nothing of the table is run for it, as a rule on it would be by a DELETE that is only explained: with
-- the rights of this function's owner.
create or replace function rowcast.lacks(relation oid) returns setof oid
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select c.oid from rowcast.tree($1) t(member) join pg_class c on c.oid = t.member
    where c.relkind = 'r' and c.relpersistence = 'p' and c.relreplident <> 'f'
      -- It takes a lock, for which nobody else's table is waited for.
      and case when c.oid in (select rowcast.held()) then pg_get_replica_identity_index(c.oid) is null else false end
$$;

-- The columns that identify a table's rows, by the newest catalog.
create or replace function rowcast.key(relation oid) returns text[]
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select array(select pg_get_indexdef(i.oid, n, false) from generate_series(1, 32) n
                 -- Not so what is only included, nor what is not there.
                 where pg_index_column_has_property(i.oid, n, 'orderable'))
    from pg_get_replica_identity_index($1) i(oid) where i.oid is not null
$$;

-- Whether a tree that is shown as its root has lost what identifies its rows: by the snapshot, which shows what this transaction has
-- taken, and by the newest catalog.
create or replace function rowcast.is_keyless(root oid) returns boolean
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    named text[];
begin
    if not exists (select from pg_class c where c.oid = root and c.relkind = 'p') or rowcast.is_identified(root, true, null, null) then
        return false;
    end if;
    named := rowcast.key(root);
    -- FULL, which has no index, may be newer than the snapshot.
    return named is null and root in (select rowcast.held()) or exists (
        select from rowcast.tree(root) t(member) join pg_class c on c.oid = t.member
        where c.relkind = 'r' and c.relreplident <> 'f'
          and case when c.oid in (select rowcast.held()) then not named <@ rowcast.key(c.oid) end);
exception when lock_not_available then
    -- Somebody has the root, to make a partition say, so this transaction has not taken its key.
    return false;
end
$$;

-- The column list and the row filter of a table's place in a publication; no row where it has neither.
create or replace function rowcast.narrowing(publication text, relation oid, out columns int2[], out filters boolean) returns setof record
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
    set standard_conforming_strings = on
as $$
declare
    row oid := rowcast.listed(publication, relation);
begin
    if row = 0 or current_setting('server_version_num')::int < 150000 then
        return;
    end if;
    -- With another list or filter it is another row.
    if exists (select from pg_publication_rel r where r.oid = row) then
        return query execute $sql$
            select r.prattrs::int2[], r.prqual is not null from pg_publication_rel r
            where r.oid = $1 and (r.prattrs is not null or r.prqual is not null)
            $sql$ using row;
        return;
    end if;
    -- By the newest catalog. From version 16 on each table of the publication is opened for that.
    return query execute $sql$
        select t.attrs::int2[], t.qual is not null from pg_get_publication_tables($1) t
        where t.relid = $2 and (t.qual is not null or t.attrs is not null and exists (
            select from pg_attribute a
            where a.attrelid = t.relid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
              and not a.attnum = any(t.attrs)))
        $sql$ using publication, relation;
exception when lock_not_available then
    -- Somebody has another table. What cannot be told is taken for one, so that nothing is shown that was left out.
    return query select null::int2[], true;
end
$$;

-- Has the UPDATE and DELETE of a table that has lost its key fail no more, and leaves the rest to the next look at the tables: it is
-- lent an identity; where that does not help, it leaves the publication of updates.
create or replace function rowcast.relieve(captured rowcast.capture, relation oid) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    parts oid[] := array(select rowcast.lacks(relation));
    part  oid;
    place oid;
begin
    if parts = '{}' and not captured.via_root then
        return;
    end if;
    select a.oid into place
    from (select relation as oid, 0 as height
          union all
          select a.relid, a.height from pg_partition_ancestors(relation) with ordinality a(relid, height) where a.relid <> relation) a
    where rowcast.listed(captured.publication, a.oid) is distinct from 0
    order by a.height limit 1;
    if place is null or parts = '{}' and not rowcast.is_keyless(place) then
        return;
    end if;
    begin
        -- REPLICA IDENTITY FULL must have neither of these.
        if exists (select from pg_attribute a where a.attrelid = any(parts) and a.attgenerated = 'v' and not a.attisdropped)
           or exists (select from unnest(parts || place) t(member), rowcast.narrowing(captured.publication, t.member))
        then
            raise exception 'not even with REPLICA IDENTITY FULL it could stay in the publication';
        end if;
        foreach part in array parts loop
            begin
                insert into rowcast.lent select c.oid, c.relreplident from pg_class c where c.oid = part on conflict do nothing;
                perform rowcast.identify(part::regclass::text, 'full');
                -- What this transaction has changed its snapshot shows. Else it was FULL already.
                if not exists (select from pg_class c where c.oid = part and c.relreplident = 'f') then
                    raise exception using errcode = 'RC002';
                end if;
            exception when sqlstate 'RC002' then
                null;
            end;
        end loop;
        -- Its events would not say of which row they are.
        if captured.via_root and rowcast.is_keyless(place) then
            raise exception 'its root has no key';
        end if;
        return;
    exception when others then
        null;
    end;
    if not pg_try_advisory_xact_lock(1920295796, hashtext(captured.publication)) then
        raise exception 'another transaction is changing the publication %', captured.publication;
    end if;
    begin
        -- Nobody but a person may put it back without.
        insert into rowcast.chosen (slot, relation, columns, filters, inserts)
        select captured.slot, place, n.columns, n.filters, false from rowcast.narrowing(captured.publication, place) n
        on conflict do nothing;
    exception when serialization_failure then
        -- A look has noted it since the snapshot.
        null;
    end;
    execute format('alter publication %I drop table only %s', captured.publication, place::regclass);
end
$$;

-- Whether a table is one that has got a key, so that it may come into the publication of updates. A tree may have parts that the
-- snapshot does not show.
create or replace function rowcast.is_new_key(captured rowcast.capture, relation oid) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select exists (select from pg_class c where c.oid = $2 and c.relkind = 'r' and not c.relispartition)
       and case when $2 in (select rowcast.held()) then pg_get_replica_identity_index($2) is not null else false end
       and coalesce(rowcast.listed(($1).publication, $2) = 0, false) and rowcast.is_shown($1, $2)
$$;

-- A grant on what was made just now comes of ALTER DEFAULT PRIVILEGES (as in V13).
do $$
declare
    statement text;
begin
    for statement in
        select distinct pg_catalog.format('revoke all on function %s from %s cascade', p.oid::pg_catalog.regprocedure,
                             case when a.grantee = 0 then 'public' else a.grantee::pg_catalog.regrole::text end)
        from pg_catalog.pg_proc p
        cross join lateral pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
        where p.pronamespace = 'rowcast'::pg_catalog.regnamespace
          and p.proname in ('listed', 'is_shown', 'held', 'lacks', 'key', 'is_keyless', 'narrowing', 'relieve', 'is_new_key') and a.grantee <> p.proowner
    loop
        execute statement;
    end loop;
end
$$;

-- As in V12, but for that.
create or replace function rowcast.settle(captured rowcast.capture, relation oid, created boolean) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    why text;
begin
    if exists (select from rowcast.identifying i where i.transaction = pg_current_xact_id_if_assigned()) then
        return;
    end if;
    -- An older snapshot tells nothing of an identity: whoever has one by the newest catalog must not lose his place.
    if not created and current_setting('transaction_isolation') in ('repeatable read', 'serializable')
       and not rowcast.is_new_key(captured, relation)
    then
        perform rowcast.relieve(captured, relation);
        return;
    end if;
    begin
        perform rowcast.move(captured, relation, created);
        return;
    exception when others then
        why := sqlerrm;
    end;
    if not rowcast.lend(captured, relation) then
        raise exception '%', why;
    end if;
exception when others then
    raise exception '%', concat_ws('; and ', why, nullif(sqlerrm, why));
end
$$;

-- As in V11, but for that: there, those tables count that this transaction holds and that have no index for it by the newest
-- catalog. At most so many that a command takes no time for them; with more, the next look at the tables does the rest.
create or replace function rowcast.bereft(captured rowcast.capture) returns setof oid
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        return query
            select distinct near.oid
            from (select c.oid from pg_class c
                  where c.relkind = 'r' and c.relpersistence = 'p' and c.relreplident <> 'f'
                    -- Nothing else is opened: it may be gone, or somebody else's.
                    and case when c.oid in (select rowcast.held()) then pg_get_replica_identity_index(c.oid) is null else false end
                  order by exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                                   where r.prrelid = c.oid and p.pubname = captured.publication) desc
                  limit 50) lacking
                 cross join lateral (select lacking.oid union select a.relid from pg_partition_ancestors(lacking.oid) a) near;
        return;
    end if;
    return query
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
        where p.pubname = captured.publication and (a.relkind = 'r' or captured.via_root);
end
$$;

-- As in V5, but that most texts are known by their beginning: a file that is sent whole is megabytes, for each of its statements.
create or replace function rowcast.is_alone(said text, command text) returns boolean
    language sql immutable
    set search_path = pg_catalog, pg_temp
    set standard_conforming_strings = on
as $$
    select case when position(';' in said) = 0 then true
                when btrim(substr(said, position(';' in said), 200), E' \t\r\n;') <> '' then false
                else position(';' in rtrim(said, E' \t\r\n;')) = 0 end
       and regexp_replace(left(said, 10000), '^(\s+|--[^\n]*\n|/\*([^*]|\*+[^*/])*\*+/)*', '') ~*
           case command when 'SELECT INTO' then '^(select|with)\M.*\minto\M'
                        else '^' || split_part(command, ' ', 1) || '\M' end
$$;

-- It reads rowcast.capture, for which somebody may wait (VACUUM FULL) whom another application keeps waiting.
alter function rowcast.on_drop() set lock_timeout = '10ms';
