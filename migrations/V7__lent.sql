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
            perform rowcast.move(captured, near, false);
        end loop;
    end loop;
end
$$;

-- Puts a table into the publication that its replica identity allows, as before; where that cannot be now, it is lent
-- one.
alter function rowcast.settle(rowcast.capture, oid, boolean) rename to move;

create function rowcast.settle(captured rowcast.capture, relation oid, created boolean) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    stack text;
    why   text;
begin
    get diagnostics stack = pg_context;
    if stack ~ 'function rowcast[.](lend|repay)[(]' then
        -- What these change they settle themselves.
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

revoke all on function rowcast.lend(rowcast.capture, oid), rowcast.repay(oid),
    rowcast.settle(rowcast.capture, oid, boolean) from public;
