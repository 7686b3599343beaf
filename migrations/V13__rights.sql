-- What settles tables knows more of what an ALTER TABLE may have done, and leaves nobody's writers failing for want of a
-- right; and nobody is granted by default what is the owner's alone.

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
        raise log 'rowcast: % is captured no more: it has lost its key, and only its owner may add it to the publication %',
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

revoke all on function rowcast.hinders(oid, text[]) from public;

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
