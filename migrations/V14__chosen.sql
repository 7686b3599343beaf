-- What somebody has chosen of a table's columns and rows for a publication of ours goes with the membership, when a column
-- of it is dropped with CASCADE. Without it nobody but a person may put the table back: it would show what was left out.

create table rowcast.chosen (
    slot     text not null,
    relation oid not null,
    -- The column list, by number; null without one.
    columns  int2[],
    -- It has a row filter.
    filters  boolean not null,
    -- It is in the publication of inserts.
    inserts  boolean not null,
    primary key (slot, relation)
);

comment on table rowcast.chosen is 'Tables with a column list or a row filter in a publication, as last seen there';

-- A grant on what was made just now comes of ALTER DEFAULT PRIVILEGES (as in V13). Whoever may write it decides what is shown.
do $$
declare
    grantee text;
begin
    for grantee in
        select distinct case when a.grantee = 0 then 'public' else a.grantee::pg_catalog.regrole::text end
        from pg_catalog.pg_class c cross join lateral pg_catalog.aclexplode(c.relacl) a
        where c.oid = 'rowcast.chosen'::pg_catalog.regclass and a.grantee <> c.relowner
    loop
        execute pg_catalog.format('revoke all on table rowcast.chosen from %s cascade', grantee);
    end loop;
end
$$;
