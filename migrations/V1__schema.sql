-- What rowcast keeps in the source database. Everything lives in the schema "rowcast"; nothing outside it is
-- touched. The schema itself is created before this file runs, because the history of migrations lives in it too
-- (rowcast.migrations).

comment on schema rowcast is 'Rowcast (change data capture): see rowcast.installation for who reads which slot';

-- Who reads a replication slot. A second installation on the same slot would take away the first one's changes;
-- it is refused until "rowcast adopt" makes it the owner.
create table rowcast.installation (
    slot         text        not null primary key,
    installation uuid        not null,
    created_at   timestamptz not null default now(),
    -- Where the slot stood when it was created; a slot that was made anew has another one.
    -- Null between the claim and the creation of the slot.
    slot_birth   pg_lsn
);

comment on table rowcast.installation is 'The owner of each replication slot that rowcast reads';

-- Puts a custom event into the stream: select rowcast.publish('orders.shipped', '{"id": 7}')
-- It arrives on its channel in commit order with the row changes of its transaction, and never when the
-- transaction rolls back. Nothing is stored in a table.
create function rowcast.publish(channel text, payload jsonb) returns pg_lsn
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
    return pg_logical_emit_message(true, 'rowcast.event.' || channel, payload::text);
end
$$;

comment on function rowcast.publish(text, jsonb) is 'Sends a custom event to a channel, in commit order with row changes';

-- Everybody may publish; nobody but the owner sees or changes the rest.
revoke all on function rowcast.publish(text, jsonb) from public;
grant usage on schema rowcast to public;
grant execute on function rowcast.publish(text, jsonb) to public;
