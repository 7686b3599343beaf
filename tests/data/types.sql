-- Types of the test's own, so that values of user-defined types of every kind are in the stream.
create extension hstore; create extension citext; create extension ltree; create extension cube; create extension seg;
create extension isn;
create schema "Odd ""Schema""";

create type mood as enum ('sad', 'so so', 'it''s "fine"', 'ünï');
create domain mood_domain as mood;
create domain mood_domain_domain as mood_domain check (value::mood <> 'sad');
create domain short_text as varchar(10) not null;
create domain cents as numeric(12,2);
create domain int_list as integer[];
create domain int_list_domain as int_list check (cardinality(value) < 9);
create domain instant as timestamptz;
create type "Odd ""Schema"""."Odd, Type" as enum ('a,b', '(', '"', '\', ' ', 'null');
create type empty_type as ();
create type pair as (n integer, t text);
create type priced as (name text, price numeric(10,2), paid money, at timestamptz, tags text[], p pair);
create type nested as (id bigint, pairs pair[], prices numeric[], p priced, m mood, d cents, j jsonb, b bytea);
create domain pair_domain as pair;
create domain pair_list as pair_domain[];
create type tagged as (h hstore, v int_list_domain, b box[], r int4range, m mood_domain_domain[]);
create type float_range as range (subtype = float8);
create type mood_range as range (subtype = mood);
