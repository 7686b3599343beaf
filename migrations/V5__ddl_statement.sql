-- What rowcast.ddl tells of the client's text: the statement, where the text holds no other one.

-- Whether a client's text is the one statement that a command tag names. What was sent with others in one text, or was
-- run by a function or DO, may stand beside somebody's password: then the text is not told.
create function rowcast.is_alone(said text, command text) returns boolean
    language sql immutable
    set search_path = pg_catalog, pg_temp
    set standard_conforming_strings = on
as $$
    select position(';' in rtrim(said, E' \t\r\n;')) = 0
       and regexp_replace(left(said, 10000), '^(\s+|--[^\n]*\n|/\*([^*]|\*+[^*/])*\*+/)*', '') ~*
           case command when 'SELECT INTO' then '^(select|with)\M.*\minto\M'
                        else '^' || split_part(command, ' ', 1) || '\M' end
$$;

create or replace function rowcast.tell(slot text, command text, object text, channel text) returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    select rowcast.say('rowcast.ddl.' || slot, convert_to(json_build_object(
        'command', command, 'object', object, 'table', channel, 'statement',
        case when rowcast.is_alone(current_query(), command) then left(current_query(), 10000) end)::text, 'UTF8'))
$$;

revoke all on function rowcast.is_alone(text, text) from public;
