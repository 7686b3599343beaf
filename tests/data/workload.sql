-- Tables of 27 column types, and for each a function that makes a row of a number and a salt.
create type mood as enum ('sad', 'so so', 'happy');
create domain cents as numeric(12,2);

create table wide (
    id bigint primary key, small smallint, n integer, big bigint, r real, d double precision, num numeric(12,2),
    free numeric, c cents, flag boolean, t text, vc varchar(40), ch char(5), by bytea, ts timestamp, ts3 timestamp(3),
    tz timestamptz, da date, ti time, iv interval, u uuid, js json, jb jsonb, ints integer[], texts text[], m mood,
    ip inet, bits varbit(16), yen money
);
create table whole (id integer primary key, n bigint, note text, at timestamptz, tags text[]);
create table keyless (a bigint, b text, c numeric(10,3), d date, long text);
create table coded (id integer primary key, code text not null unique, note varchar);
create table parts (id bigint, region text, v integer, note text, primary key (id, region)) partition by list (region);
create table parts_eu partition of parts for values in ('eu');
create table parts_us partition of parts for values in ('us');
create table parts_rest partition of parts default;
create table marker (id bigint primary key);

alter table whole replica identity full;
alter table keyless replica identity full;
alter table coded replica identity using index coded_code_key;

-- Long values go out of line, and an update that leaves them alone does not send them.
alter table wide alter t set storage external, alter by set storage external, alter jb set storage external;
alter table whole alter note set storage external;
alter table keyless alter long set storage external;
alter table parts alter note set storage external;

create function pick(i bigint, salt bigint, k integer, below bigint) returns bigint language sql immutable as
$$ select abs(hashint8extended(i, salt + k) % below) $$;

create function word(i bigint, salt bigint, k integer, len integer) returns text language sql immutable as
$$ select left(repeat(md5((i + k)::text || salt), 1 + len / 32), len) $$;

create function make_wide(i bigint, s bigint) returns setof wide language sql stable as $$
    select i, pick(i, s, 1, 65536) - 32768, pick(i, s, 2, 2000000000) - 1000000000,
        9223372036854775807 - pick(i, s, 3, 1000000), pick(i, s, 4, 1000000) / 7.0::real,
        (pick(i, s, 5, 1000000000) - 500000000) / 13.0::float8, (pick(i, s, 6, 1000000000) - 500000000) / 100.0,
        (pick(i, s, 7, 1000000000) - 5000)::numeric / 10 ^ pick(i, s, 8, 6), pick(i, s, 9, 1000) / 100.0,
        nullif(pick(i, s, 10, 3), 2) = 1,
        case pick(i, s, 11, 10) when 0 then null when 1 then '' when 2 then word(i, s, 12, 5000)
            when 3 then E'it''s a "line"\n\tand \\another\r\n' when 4 then 'ünï 😀' else word(i, s, 12, 20) end,
        word(i, s, 13, pick(i, s, 14, 40)::integer), left(word(i, s, 15, 5), pick(i, s, 16, 6)::integer),
        case pick(i, s, 17, 12) when 0 then null when 1 then convert_to(word(i, s, 18, 4000), 'UTF8')
            else decode(md5((i + s)::text), 'hex') end,
        timestamp '2000-01-01' + pick(i, s, 19, 900000000000000) * interval '1 microsecond',
        timestamp '1969-12-31' + pick(i, s, 20, 100000000) * interval '1 millisecond',
        timestamptz '1990-06-01 00:00+03' + pick(i, s, 21, 900000000000000) * interval '1 microsecond',
        date '1900-01-01' + pick(i, s, 22, 80000)::integer, time '00:00' + pick(i, s, 23, 86400000) * interval '1 ms',
        make_interval(months => (pick(i, s, 24, 50) - 25)::integer, secs => pick(i, s, 25, 100000000) / 1000.0),
        md5(i::text || s)::uuid,
        format(E'{"b": [1, 2.50,\n null], "a": "%s", "n": %s}', word(i, s, 26, 5), pick(i, s, 27, 100000))::json,
        case pick(i, s, 28, 10) when 0 then null when 1 then jsonb_build_object('long', word(i, s, 29, 3000))
            else jsonb_build_object('i', i, 'x', pick(i, s, 30, 1000) / 8.0, 'l', jsonb_build_array(null, true, 'é')) end,
        case when pick(i, s, 31, 5) > 0 then array[pick(i, s, 32, 9), null, -1]::integer[] end,
        case when pick(i, s, 33, 5) > 0 then array['', 'null', null, 'a,b "c" \d', word(i, s, 34, 9)] else '{}' end,
        (array['sad', 'so so', 'happy', null])[1 + pick(i, s, 35, 4)]::mood,
        case when pick(i, s, 36, 2) > 0 then '10.0.0.0/8'::inet + pick(i, s, 37, 1000) else '2001:db8::1' end,
        case when pick(i, s, 38, 9) > 0 then pick(i, s, 38, 65536)::integer::bit(16)::varbit end,
        (pick(i, s, 39, 100000000) / 100.0)::numeric::money
$$;
create function make_whole(i bigint, s bigint) returns setof whole language sql stable as $$
    select i::integer, pick(i, s, 1, 1000), word(i, s, 2, case pick(i, s, 3, 4) when 0 then 4000 else 12 end),
        timestamptz '2020-01-01 00:00+00' + pick(i, s, 4, 100000) * interval '1 second', array[word(i, s, 5, 3), null]
$$;
create function make_keyless(i bigint, s bigint) returns setof keyless language sql stable as $$
    select i, (array['x', 'y', null])[1 + pick(i, s, 1, 3)], pick(i, s, 2, 100) / 8.0,
        date '2020-01-01' + pick(i, s, 3, 9)::integer, word(i, s, 4, case pick(i, s, 5, 4) when 0 then 3000 else 3 end)
$$;
create function make_coded(i bigint, s bigint) returns setof coded language sql stable as $$
    select i::integer, 'c' || i, word(i, s, 1, 9)
$$;
create function make_parts(i bigint, s bigint) returns setof parts language sql stable as $$
    select i, (array['eu', 'us', 'somewhere'])[1 + pick(i, s, 1, 3)], pick(i, s, 2, 1000)::integer,
        word(i, s, 3, case pick(i, s, 4, 4) when 0 then 3000 else 12 end)
$$;
