-- The server recodes rows for the stream, not messages: what is not in UTF-8 is recoded here. Where it knows no encoding
-- (SQL_ASCII) the bytes go as they are.
create function rowcast.say(prefix text, content text) returns pg_lsn
    language plpgsql volatile parallel unsafe
    set search_path = pg_catalog, pg_temp
as $$
begin
    if getdatabaseencoding() in ('UTF8', 'SQL_ASCII') then
        return pg_logical_emit_message(true, prefix, content);
    end if;
    return pg_logical_emit_message(true, prefix, convert_to(content, 'UTF8'));
end
$$;

-- Whoever may publish may call pg_logical_emit_message as well.
grant execute on function rowcast.say(text, text) to public;

-- As in V1.
create or replace function rowcast.publish(channel text, payload jsonb) returns pg_lsn
    language plpgsql volatile parallel unsafe
    set search_path = pg_catalog
as $$
begin
    if channel is null or channel = '' then
        raise exception 'the channel has no name' using errcode = 'invalid_parameter_value';
    end if;
    if octet_length(channel) > 200 then
        raise exception 'the name of the channel is longer than 200 bytes'
            using errcode = 'invalid_parameter_value';
    end if;
    if channel !~ '^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$' or channel ~ '^rowcast($|[.])' then
        raise exception 'the name of the channel cannot be used'
            using errcode = 'invalid_parameter_value',
                  hint = 'Use letters, digits, _ and -, in parts with a dot between; rowcast.* is rowcast''s own.';
    end if;
    if payload is null then
        raise exception 'the payload is null'
            using errcode = 'null_value_not_allowed', hint = 'To send the JSON value null, write ''null''::jsonb.';
    end if;
    return rowcast.say('rowcast.event.' || channel, payload::text);
end
$$;

-- As in V3.
create or replace function rowcast.snapshot(wanted regclass, condition text default null, slot text default null)
    returns pg_lsn
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
    return rowcast.say(concat_ws('.', 'rowcast.snapshot', snapshot.slot), told);
end
$$;
