//! Column types with values at their edges.

/// A column.
pub(super) struct Case {
    /// Its type.
    pub(super) ty: &'static str,
    /// Its values as text, or as SQL after `sql:`; rows beyond them have null.
    pub(super) values: &'static [&'static str],
    /// What the stream has to show, `$` standing for the column: Postgres' `to_jsonb` where empty.
    pub(super) shown: &'static str,
}

const fn case(ty: &'static str, values: &'static [&'static str]) -> Case {
    Case { ty, values, shown: "" }
}

const fn shown(ty: &'static str, shown: &'static str, values: &'static [&'static str]) -> Case {
    Case { ty, values, shown }
}

const TEXT: &str = "to_jsonb($::text)";
const TEXTS: &str = "to_jsonb($::text[])";

/// `priced` and `nested` with numeric as strings and money as plain decimals.
const PRICED: &str = "case when $ is not distinct from null then null else to_jsonb($)
    || jsonb_build_object('price', ($).price::text, 'paid', ($).paid::numeric::text) end";
const PRICED_LIST: &str = "case when $ is not null then (select coalesce(jsonb_agg(
    case when ($)[i] is not distinct from null then null else to_jsonb(($)[i])
    || jsonb_build_object('price', ($)[i].price::text, 'paid', ($)[i].paid::numeric::text) end order by i), '[]')
    from generate_subscripts($, 1) i) end";
const NESTED: &str = "case when $ is not distinct from null then null else to_jsonb($)
    || jsonb_build_object('prices', ($).prices::text[], 'd', ($).d::text, 'p',
        case when ($).p is not distinct from null then null else to_jsonb(($).p)
        || jsonb_build_object('price', (($).p).price::text, 'paid', (($).p).paid::numeric::text) end) end";

/// Everything that stock Postgres 15 has, and its contrib modules hstore, citext, ltree and others.
pub(super) const CASES: &[Case] = &[
    case("smallint", &["-32768", "32767", "0"]),
    case("integer", &["-2147483648", "2147483647", "0"]),
    case("bigint", &["-9223372036854775808", "9223372036854775807", "9007199254740993"]),
    case("oid", &["0", "4294967295"]),
    case(
        "real",
        &["0", "-0", "1.1", "3.4028235e+38", "1e-45", "NaN", "Infinity", "-Infinity", "16777216", "1e15", "100"],
    ),
    case(
        "double precision",
        &["0", "-0", "0.1", "1.7976931348623157e+308", "5e-324", "NaN", "Infinity", "-Infinity", "1e15", "1e16", "-1e-5"],
    ),
    shown(
        "numeric",
        TEXT,
        &["0", "-0.00", "1.10", "NaN", "Infinity", "-Infinity", "1e1000", "-1e-1000", "123456789012345678901234567890.123"],
    ),
    shown("numeric(10,2)", TEXT, &["0", "1.1", "-99999999.99", "NaN"]),
    shown("numeric(5,-2)", TEXT, &["1249", "0", "-9999900"]),
    shown("numeric(3,5)", TEXT, &["0.00123", "-0.00999"]),
    shown(
        "money",
        "to_jsonb($::numeric::text)",
        &["0", "1234567.89", "-0.01", "92233720368547758.07", "-92233720368547758.08"],
    ),
    case("boolean", &["true", "false"]),
    case(
        "text",
        &["", " ", "null", "NULL", "a\nb\r\nc\td", "it's \"quoted\" \\ slashed / \\u0041", "ünï 😀 \u{2028}\u{2029}\u{7f}\u{1}",
          "data: x\n\nid: 7\n", "{}", "[1]", "\u{feff}bom", "</script>"],
    ),
    case("varchar(10)", &["", "ten chars!", "ünï"]),
    case("character(5)", &["", "ab", "a b c", "'\\\""]),
    case("\"char\"", &["a", "", "\"", "\\377"]),
    case("name", &["", "a_name", "Odd \"Name\""]),
    case("bytea", &["", "\\x00ff", "\\xdeadbeef", "\\x5c78"]),
    case("date", &["2026-02-28", "infinity", "-infinity", "0044-03-15 BC", "4713-01-01 BC", "5874897-12-31", "0001-01-01"]),
    case("time", &["00:00", "24:00:00", "23:59:59.999999", "12:00:00.1"]),
    case("time(3)", &["23:59:59.999"]),
    case("time with time zone", &["00:00+00", "24:00:00+15:59:59", "23:59:59.999999-15:59", "12:30:00.5+05:45"]),
    case(
        "timestamp",
        &["2026-02-28 12:34:56.789", "infinity", "-infinity", "4713-01-01 00:00:00 BC", "0001-12-31 23:59:59.999999 BC",
          "294276-12-31 23:59:59.999999", "1970-01-01", "2000-01-01 00:00:00.000001"],
    ),
    case("timestamp(0)", &["2026-02-28 12:34:56.789"]),
    case(
        "timestamp with time zone",
        &["2026-02-28 12:34:56.789+05:45", "infinity", "-infinity", "4713-01-01 12:00:00+00 BC", "0044-03-15 12:00+00 BC",
          "294276-12-31 23:59:59.999999+00", "1883-11-18 12:03:58-04:56:02", "2024-03-31 02:30:00+01"],
    ),
    case(
        "interval",
        &["0", "1 year 2 months -3 days 04:05:06.789", "-1 year", "178000000 years", "-178000000 years", "1 mon -1 sec",
          "-00:00:00.000001", "1000000 hours", "1.5 days"],
    ),
    case("interval day to second(3)", &["3 days 04:05:06.7891"]),
    case("uuid", &["00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
    case(
        "json",
        &["null", "{\"b\": 1,\n  \"a\": [1.50, 1e5, \"line\\nbreak\", {}],\r\n\t\"a\": 2}", "\"text  with  blanks\"", " [ ] ", "1e400",
          "12345678901234567890.123456789", "\"\\u00e9\\ud83d\\ude00 \u{2028} \\\"\"", "[[[[]]]]"],
    ),
    case("jsonb", &["null", "{\"b\": 1, \"a\": [1.50, 1e5, \"line\\nbreak\"]}", "\"\\u0001\"", "1e400", "{\"\": {\"\": []}}"]),
    case("jsonpath", &["$.a[*] ? (@ > 1)", "lax $.\"odd \\\"key\\\"\""]),
    case("xml", &["<a b=\"c\">d\n</a>", "text", "<?xml version=\"1.0\"?><x/>"]),
    case("inet", &["10.0.0.1", "10.0.0.1/8", "::1", "2001:db8::/32", "0.0.0.0/0"]),
    case("cidr", &["10.0.0.0/8", "10.1.2.3/32", "2001:db8::/32"]),
    case("macaddr", &["08:00:2b:01:02:03"]),
    case("macaddr8", &["08:00:2b:ff:fe:01:02:03"]),
    case("bit", &["0", "1"]),
    case("bit(12)", &["000000000000", "101010101010"]),
    case("varbit", &["", "1", "10101010101"]),
    case("point", &["(1,2)", "(-1.5,Infinity)", "(NaN,1e300)"]),
    case("line", &["{1,-1,0}", "{0,1,2.5}"]),
    case("lseg", &["[(0,0),(1,1)]"]),
    case("box", &["(1,1),(0,0)"]),
    case("path", &["[(0,0),(1,1),(2,0)]", "((0,0),(1,1))"]),
    case("polygon", &["((0,0),(1,1),(2,0))"]),
    case("circle", &["<(1,2),3>"]),
    case("int4range", &["empty", "[1,10)", "(,)", "[,5]", "[2147483646,2147483647)"]),
    case("int8range", &["[1,9007199254740993]"]),
    case("numrange", &["(1.10,2.20]", "empty", "[-Infinity,NaN]"]),
    case("tsrange", &["[\"2026-01-01 00:00\",\"2026-01-02 00:00:00.5\")", "[-infinity,infinity]"]),
    case("tstzrange", &["[\"2026-01-01 00:00+05:45\",)", "(,\"0044-03-15 12:00+00 BC\"]"]),
    case("daterange", &["[2026-01-01,2026-01-31]", "(,infinity)"]),
    case("int4multirange", &["{}", "{[1,3),[5,7)}"]),
    case("int8multirange", &["{[1,2)}"]),
    case("nummultirange", &["{[1.10,2.20),(3,4]}"]),
    case("tsmultirange", &["{[\"2026-01-01 00:00\",\"2026-01-02 00:00\")}"]),
    case("tstzmultirange", &["{[\"2026-01-01 00:00+05:45\",\"2026-01-02 00:00+05:45\")}"]),
    case("datemultirange", &["{[2026-01-01,2026-01-31),[2027-01-01,)}"]),
    case("float_range", &["[0.1,1e100)"]),
    case("mood_range", &["[sad,\"it's \"\"fine\"\"\"]"]),
    case("tsvector", &["", "'fat':2,4C 'it''s':1A 'r\\\\at'"]),
    case("tsquery", &["'fat' & ( 'rat' | !'cat' )", "'a' <-> 'b':*A"]),
    case("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF"]),
    case("pg_snapshot", &["10:20:10,14,15"]),
    case("txid_snapshot", &["10:20:10,14,15"]),
    case("xid", &["4294967295"]),
    case("xid8", &["18446744073709551615"]),
    case("cid", &["1"]),
    case("tid", &["(42,7)"]),
    case("refcursor", &["a cursor"]),
    case("regclass", &["pg_class", "1"]),
    case("regtype", &["integer", "timestamp with time zone"]),
    case("regproc", &["pg_backend_pid"]),
    case("regprocedure", &["abs(integer)"]),
    case("regnamespace", &["pg_catalog"]),
    case("oidvector", &["1 2 3", ""]),
    case("int2vector", &["1 -2 3"]),
    case("aclitem", &["=r/postgres"]),
    case("mood", &["sad", "so so", "it's \"fine\"", "ünï"]),
    case("mood_domain", &["sad", "so so"]),
    case("mood_domain_domain", &["it's \"fine\""]),
    case("short_text", &["", "x", "null"]),
    shown("cents", TEXT, &["1.5", "NaN"]),
    case("int_list", &["{}", "{1,null,3}"]),
    case("instant", &["2026-02-28 12:34:56.789+05:45"]),
    case("\"Odd \"\"Schema\"\"\".\"Odd, Type\"", &["a,b", "(", "\"", "\\", " ", "null"]),
    case("pair", &["(,)", "(1,\"\")", "(-5,\"it's \"\"quoted\"\", \\\\ (and) {so} on\")", "(7,null)", "(8,\" \")"]),
    case("pair_domain", &["(1,x)"]),
    shown(
        "priced",
        PRICED,
        &["(,,,,,)",
          "sql:row('a \"b\"', 1.50, 2.5, '2026-01-01 00:00+05:45', array['x', null, 'y \\\"z', ''], row(1, 'two, (three)'))"],
    ),
    shown(
        "priced[]",
        PRICED_LIST,
        &["{}", "sql:array[null, row('a', 1.50, 2.5, null, '{}', null),
            row('b', 'NaN', null, 'infinity', null, row(2, E'x\\n\"y\"'))]::priced[]"],
    ),
    shown(
        "nested",
        NESTED,
        &["sql:row(7, array[row(1, 'a,\"b\"')::pair, null], '{1.10,NULL,NaN}', row('p', 2.50, null, null, null, null),
            'so so', 3.5, '{\"k\": [1, null, \"é\"]}', '\\x00ff')"],
    ),
    case("pair[]", &["{}", "{NULL,\"(1,a)\",\"(,\\\"b, \\\"\\\"c\\\"\\\"\\\")\"}", "{{\"(1,a)\"},{\"(2,b)\"}}"]),
    case("boolean[]", &["{t,f,NULL}"]),
    case("integer[]", &["{}", "{NULL}", "{{1,2},{3,4}}", "{{{1}},{{2}}}", "[0:1]={5,6}", "[-1:0][2:3]={{1,2},{3,4}}"]),
    case("bigint[]", &["{9007199254740993,-1}"]),
    case("double precision[]", &["{NaN,Infinity,0.1,1e300}"]),
    shown("numeric[]", TEXTS, &["{1.10,NULL,NaN}", "{{1.0,2.00},{3,4}}"]),
    shown("money[]", "to_jsonb($::numeric[]::text[])", &["{1.5,NULL,-2}"]),
    case("text[]", &["{}", "{\"\",\"null\",NULL,\"a,b\",\"it's \\\"q\\\" \\\\ \",\" x \",\"{}\"}", "{{a,b},{c,NULL}}", "{\"line\nbreak\"}"]),
    case("varchar(3)[]", &["{abc,ü}"]),
    case("character(3)[]", &["{a,NULL}"]),
    case("bytea[]", &["{\"\\\\x00ff\",NULL,\"\\\\x\"}"]),
    case("date[]", &["{2026-01-01,infinity,NULL}"]),
    case("timestamp[]", &["{\"2026-01-01 00:00:00.5\",-infinity}"]),
    case("timestamptz[]", &["{\"2026-01-01 00:00+05:45\",\"0044-03-15 12:00+00 BC\",NULL}"]),
    case("timetz[]", &["{12:30:00.5+05:45}"]),
    case("interval[]", &["{\"1 year -2 days\",\"0\"}"]),
    case("uuid[]", &["{00000000-0000-0000-0000-000000000000}"]),
    case("json[]", &["{\"{\\\"a\\\":\n 1}\",NULL,null,\"\\\"x\\\"\"}"]),
    case("jsonb[]", &["{\"{\\\"a\\\": [1.50]}\",\"null\"}"]),
    case("inet[]", &["{10.0.0.1/8,::1}"]),
    case("bit(3)[]", &["{101,000}"]),
    case("box[]", &["{(1,1),(0,0);(3,3),(2,2)}"]),
    case("point[]", &["{\"(1,2)\",NULL}"]),
    case("int4range[]", &["{\"[1,3)\",empty,NULL}"]),
    case("int4multirange[]", &["{\"{[1,3),[5,7)}\",\"{}\"}"]),
    case("mood[]", &["{sad,\"so so\",NULL,\"it's \\\"fine\\\"\"}"]),
    case("mood_domain[]", &["{sad,NULL}"]),
    shown("cents[]", "to_jsonb($::text[])", &["{1.5,NULL}"]),
    case("oid[]", &["{1,4294967295}"]),
    case("name[]", &["{a,\"b c\"}"]),
    case("hstore", &["", "a=>1,b=>NULL,\"c \\\"d\\\"\"=>\"e\\\\f\",\"\"=>\"\"", "x=>\"line\nbreak\",n=>\"1e5\",t=>t"]),
    case("hstore[]", &["{\"\\\"a\\\"=>\\\"1\\\"\",NULL}"]),
    case("citext", &["", "MiXed", "it's \"q\"\n"]),
    case("citext[]", &["{A,NULL,\"b c\"}"]),
    case("ltree", &["", "Top.Science.Astronomy"]),
    case("ltree[]", &["{a.b,NULL}"]),
    case("lquery", &["*.Astro*@.!pictures@.*"]),
    case("ltxtquery", &["Europe & Russia*@ & !Transportation"]),
    case("cube", &["(1, 2),(3, 4)"]),
    case("seg", &["1.50 .. 2"]),
    case("isbn13", &["978-0-11-000533-1"]),
];
