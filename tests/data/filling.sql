-- Tables with every kind of key, half full: a row for every second number. Each has a function that makes the row of a
-- number; two of five have a value that is out of line, which an update that leaves it alone does not send.
create function word(k bigint, salt bigint, length integer) returns text language sql immutable as
$$ select left(repeat(md5(k || ':' || salt), 1 + length / 32), length) $$;

-- In the order of a collation other than that of bytes, with what SQL and COPY write differently.
create function word_of(k bigint) returns text language sql immutable as
$$ select (array['a', 'B', 'ä', 'Z', 'é', E'\t''', E'\\N', '😀'])[1 + k % 8] || k $$;

create function region_of(k bigint) returns text language sql immutable as
$$ select (array['eu', 'us', 'somewhere'])[1 + k % 3] $$;

create function big_of(k bigint, salt bigint) returns text language sql immutable as
$$ select word(k, salt, case when k % 5 < 2 then 2300 else 9 end) $$;

create table numbers (id integer primary key, n integer, big text);
create table words (n integer, word text collate "und-x-icu" primary key, big text);
create table pairs (region text, big text, n integer, id integer, primary key (id, region));
create table uuids (big text, id uuid primary key, n integer);
create table coded (id integer primary key, code varchar collate "und-x-icu" not null unique, n integer, big text);
alter table coded replica identity using index coded_code_key;
create table whole (id bigint primary key, n integer, big text);
alter table whole replica identity full;
create table parts (id integer, region text, n integer, big text, primary key (id, region)) partition by list (region);
create table parts_eu partition of parts for values in ('eu');
create table parts_us (big text, region text not null, n integer, id integer not null);
alter table parts attach partition parts_us for values in ('us');
create table parts_rest partition of parts default;
create table marker (id bigint primary key);

create function make_numbers(k bigint, s bigint) returns setof numbers language sql stable as
$$ select k::integer, 0, big_of(k, s) $$;
create function make_words(k bigint, s bigint) returns setof words language sql stable as
$$ select 0, word_of(k), big_of(k, s) $$;
create function make_pairs(k bigint, s bigint) returns setof pairs language sql stable as
$$ select region_of(k), big_of(k, s), 0, (k / 3)::integer $$;
create function make_uuids(k bigint, s bigint) returns setof uuids language sql stable as
$$ select big_of(k, s), md5(k::text)::uuid, 0 $$;
create function make_coded(k bigint, s bigint) returns setof coded language sql stable as
$$ select k::integer, word_of(k), 0, big_of(k, s) $$;
create function make_whole(k bigint, s bigint) returns setof whole language sql stable as
$$ select k, 0, big_of(k, s) $$;
create function make_parts(k bigint, s bigint) returns setof parts language sql stable as
$$ select (k / 3)::integer, region_of(k), 0, big_of(k, s) $$;

do $$
declare
    name text;
begin
    foreach name in array array['numbers', 'words', 'pairs', 'uuids', 'coded', 'whole', 'parts'] loop
        execute format('alter table %I alter big set storage external', name);
        execute format('insert into %I select r.* from generate_series(0, 24000, 2) k, lateral make_%s(k, 0) r', name, name);
        -- How many rows there are is known from now on.
        execute format('analyze %I', name);
    end loop;
end
$$;
