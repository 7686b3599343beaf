-- Postgres sends no word of it when a type changes that columns of captured tables have: an enum's labels, the names of a
-- row type's attributes, its own name. So rowcast is told in the transaction that changes it, and asks the catalog anew.

create function rowcast.on_types() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '10ms'
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
    raise log 'rowcast: what % has changed of a type is seen at the next connection: %', tg_tag, sqlerrm;
end
$$;

revoke all on function rowcast.on_types() from public;
