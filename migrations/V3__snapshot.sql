-- Asks for the rows of a captured table, as they are, beside the stream of its changes:
--   select rowcast.snapshot('public.orders');
--   select rowcast.snapshot('public.orders', 'id > 1000');
-- They come as events with op "read" once this transaction has committed, and never when it rolls back. Nothing is
-- stored in a table. Where several rowcasts read this database, the third argument names one by its slot.
create function rowcast.snapshot(wanted regclass, condition text default null, slot text default null) returns pg_lsn
    language plpgsql volatile parallel unsafe
    set search_path = pg_catalog, pg_temp
as $$
declare
    told text;
begin
    if wanted is null then
        raise exception 'no table is named' using errcode = 'null_value_not_allowed';
    end if;
    select jsonb_build_object('schema', n.nspname, 'table', c.relname, 'condition', snapshot.condition)::text into told
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = wanted and c.relkind in ('r', 'p');
    if told is null then
        raise exception '% is not a table', wanted using errcode = 'wrong_object_type';
    end if;
    return pg_logical_emit_message(true, concat_ws('.', 'rowcast.snapshot', snapshot.slot), told);
end
$$;

comment on function rowcast.snapshot(regclass, text, text) is 'Asks for the rows of a captured table as events';

-- It reads any captured table, and its condition is run as rowcast: the owner's alone, unless granted.
revoke all on function rowcast.snapshot(regclass, text, text) from public;
