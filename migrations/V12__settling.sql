-- What settles tables in the transaction that changes them knows its own commands by what it has written down, and takes
-- no lock on the other partitions of a tree.

-- Transactions in which rowcast itself changes a replica identity: what comes of that, it settles itself. A row is there
-- while the command runs, so nobody else ever sees one, and it goes with a savepoint. PG_CONTEXT, which told it before, is
-- in the language of lc_messages, and in it stands what the application runs, too.
create table rowcast.identifying (
    transaction xid8 not null primary key default pg_current_xact_id()
);

comment on table rowcast.identifying is 'Transactions in which rowcast is changing a replica identity; always empty';

-- Changes a table's replica identity; the name is SQL.
create function rowcast.identify(name text, identity text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into rowcast.identifying values (default);
    execute format('alter table only %s replica identity %s', name, identity);
    delete from rowcast.identifying i where i.transaction = pg_current_xact_id();
end
$$;

-- A table and what is partitioned below it. pg_partition_tree locks each of them until the transaction ends: whoever then
-- alters or drops another partition waits for an application that has changed one.
create function rowcast.tree(relation oid) returns setof oid
    language sql stable rows 10
    set search_path = pg_catalog, pg_temp
as $$
    with recursive members as (
        select $1 as oid
        union all
        select i.inhrelid
        from members m join pg_class c on c.oid = m.oid join pg_inherits i on i.inhparent = m.oid
        where c.relkind = 'p' and not i.inhdetachpending
    )
    select m.oid from members m
$$;

-- As in V2, but for that.
create or replace function rowcast.is_identified(relation oid, via_root boolean, listed text[], filtered text[]) returns boolean
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
        where leaf.oid in (select t.member from rowcast.tree(own.oid) t(member))
          and leaf.kind = 'r'), true)
    from rowcast.identity own
    where own.oid = relation
$$;

-- As in V9, but for both.
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
        where c.oid in (select t.member from rowcast.tree(lend.relation) t(member))
          and i.columns is null and not i.whole
          and not exists (select from pg_index x
                          where x.indrelid = c.oid and x.indisvalid and x.indimmediate
                            and case c.relreplident when 'd' then x.indisprimary when 'i' then x.indisreplident end)
    loop
        insert into rowcast.lent values (part.oid, part.identity) on conflict do nothing;
        perform rowcast.identify(part.name, 'full');
    end loop;
    if not rowcast.is_identified(relation, captured.via_root, at.listed, at.filtered) then
        raise exception 'not even with REPLICA IDENTITY FULL it could stay in the publication';
    end if;
    return true;
end
$$;

-- As in V6, but for what it writes down.
create or replace function rowcast.repay(relation oid) returns void
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
        perform rowcast.identify(name, case was when 'd' then 'default' else 'nothing' end);
    end if;
    for captured in select k.* from rowcast.capture k where k.kept loop
        for near in
            select repay.relation union select a.relid::oid from pg_partition_ancestors(repay.relation) a
        loop
            perform rowcast.move(captured, near, false);
        end loop;
    end loop;
end
$$;

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

revoke all on function rowcast.identify(text, text), rowcast.tree(oid) from public;

-- As in V11, but for this: a typed table loses an attribute's column with its type (ALTER TYPE ... DROP ATTRIBUTE ... CASCADE).
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
        where k.kept and (tg_tag like 'DROP %' or tg_tag = 'ALTER TYPE')
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
