-- Every role may write messages into the log (pg_logical_emit_message), under any name. What rowcast acts on must come
-- from its own functions: they sign it with this, and rowcast drops what is not signed. Whoever may read the key may ask
-- for what rowcast.snapshot does.
create table rowcast.secret (
    one boolean not null default true primary key check (one),
    -- As long as a block of SHA-256, so that HMAC takes it as it is.
    key bytea   not null check (octet_length(key) = 64)
);

comment on table rowcast.secret is 'What rowcast''s own messages in the log are signed with; the owner''s alone';

revoke all on rowcast.secret from public;

-- Four random numbers of 122 bits of the server's strong source.
insert into rowcast.secret (key)
values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
     || sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- HMAC-SHA-256 (RFC 2104) with a key of 64 bytes.
create function rowcast.mac(key bytea, said bytea) returns bytea
    language sql immutable strict
    set search_path = pg_catalog, pg_temp
as $$
    select sha256(padded.outside || sha256(padded.inside || mac.said))
    from (select decode(string_agg(lpad(to_hex(get_byte(mac.key, i) # 54), 2, '0'), '' order by i), 'hex') as inside,
                 decode(string_agg(lpad(to_hex(get_byte(mac.key, i) # 92), 2, '0'), '' order by i), 'hex') as outside
          from generate_series(0, 63) i) padded
$$;

-- Says something to the readers of the log, signed: of this name, in this transaction and no other. 64 hexadecimal
-- digits stand before the content.
create function rowcast.say(prefix text, content bytea) returns pg_lsn
    language plpgsql volatile parallel unsafe
    set search_path = pg_catalog, pg_temp
as $$
declare
    signed_with bytea;
    -- The log names transactions by 32 bits.
    here text := pg_current_xact_id()::text::bigint & 4294967295;
begin
    select s.key into strict signed_with from rowcast.secret s;
    return pg_logical_emit_message(true, prefix, convert_to(encode(rowcast.mac(signed_with,
        convert_to(here || ' ' || prefix, 'UTF8') || '\x00'::bytea || content), 'hex'), 'UTF8') || content);
end
$$;

revoke all on function rowcast.mac(bytea, bytea), rowcast.say(text, bytea) from public;

-- As before, but signed.
create or replace function rowcast.settle(captured rowcast.capture, relation oid, created boolean) returns void
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
    if created and not in_all.there and not in_inserts.there then
        -- CREATE TABLE AS fills the table first: for the stream those rows came before.
        execute format('select exists (select from only %s)', name) into had_rows;
    end if;
    if had_rows then
        perform rowcast.say('rowcast.gap.new_table.' || captured.slot, convert_to(channel, 'UTF8'));
    end if;
end
$$;

create or replace function rowcast.tell(slot text, command text, object text, channel text) returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    select rowcast.say('rowcast.ddl.' || slot, convert_to(json_build_object(
        'command', command, 'object', object, 'table', channel, 'statement', left(current_query(), 10000))::text, 'UTF8'))
$$;

-- As before, but signed. Whoever is granted it needs no right on the key.
create or replace function rowcast.snapshot(wanted regclass, condition text default null, slot text default null) returns pg_lsn
    language plpgsql volatile parallel unsafe security definer
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
    return rowcast.say(concat_ws('.', 'rowcast.snapshot', snapshot.slot), convert_to(told, 'UTF8'));
end
$$;
