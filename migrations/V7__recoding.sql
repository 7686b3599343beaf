-- The server recodes rows for the stream, not messages: what is not in UTF-8 is recoded here. Where it knows no encoding
-- (SQL_ASCII) the bytes go as they are.
create function rowcast.emit(prefix text, content text) returns pg_lsn
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
grant execute on function rowcast.emit(text, text) to public;

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
    return rowcast.emit('rowcast.event.' || channel, payload::text);
end
$$;
