use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rowcast_engine::Kind;

use super::*;

fn parse(text: &str) -> Conninfo {
    parse_in(text, &[("USER", "os")]).unwrap()
}

fn parse_in(text: &str, env: &[(&str, &str)]) -> Result<Conninfo> {
    Conninfo::parse_with(text, &|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
}

fn tcp(name: &str, port: u16) -> Host {
    Host::Tcp { name: name.into(), address: None, port }
}

fn unix(dir: &str, port: u16) -> Host {
    Host::Unix { dir: dir.into(), port }
}

/// A URL, its hosts, user, password and database.
type UrlCase = (&'static str, Vec<Host>, &'static str, Option<&'static str>, &'static str);

/// The examples of libpq's manual and of its own regression test (src/interfaces/libpq/t/001_uri.pl).
#[test]
fn urls_as_libpq_reads_them() {
    let cases: &[UrlCase] = &[
        (
            "postgresql://uri-user:secret@host:12345/db",
            vec![tcp("host", 12345)],
            "uri-user",
            Some("secret"),
            "db",
        ),
        ("postgresql://uri-user@host/db", vec![tcp("host", 5432)], "uri-user", None, "db"),
        ("postgres://uri-user@host/", vec![tcp("host", 5432)], "uri-user", None, "uri-user"),
        ("postgresql://host", vec![tcp("host", 5432)], "os", None, "os"),
        ("postgresql://host?user=uri-user", vec![tcp("host", 5432)], "uri-user", None, "uri-user"),
        ("postgresql://%68ost/?%75ser=%75ri-user", vec![tcp("host", 5432)], "uri-user", None, "uri-user"),
        ("postgresql://host:12345/db?dbname=other", vec![tcp("host", 12345)], "os", None, "other"),
        ("postgresql:///db?host=localhost&port=5433", vec![tcp("localhost", 5433)], "os", None, "db"),
        ("postgresql://[::1]:12345/db", vec![tcp("::1", 12345)], "os", None, "db"),
        ("postgresql://[2001:db8::1234]/", vec![tcp("2001:db8::1234", 5432)], "os", None, "os"),
        ("postgresql://%2Fvar%2Flib%2Fpg:7/db", vec![unix("/var/lib/pg", 7)], "os", None, "db"),
        ("postgresql:///db?host=/var/lib/pg", vec![unix("/var/lib/pg", 5432)], "os", None, "db"),
        ("postgresql://a:1,b:2/db", vec![tcp("a", 1), tcp("b", 2)], "os", None, "db"),
        ("postgresql://a,[::1]:3/db", vec![tcp("a", 5432), tcp("::1", 3)], "os", None, "db"),
        ("postgresql://u:p%40%3Aw%2F%3F@h/d", vec![tcp("h", 5432)], "u", Some("p@:w/?"), "d"),
        ("postgresql://u:p?q:r@h/d", vec![tcp("h", 5432)], "u", Some("p?q:r"), "d"),
        ("postgresql://:secret@h/d", vec![tcp("h", 5432)], "os", Some("secret"), "d"),
    ];
    for (text, hosts, user, password, dbname) in cases {
        let info = parse(text);
        assert_eq!(&info.hosts, hosts, "{text}");
        assert_eq!((info.user.as_str(), info.dbname.as_str()), (*user, *dbname), "{text}");
        assert_eq!(info.password.as_deref(), *password, "{text}");
    }
}

#[test]
fn keyword_value_pairs() {
    let info =
        parse(r"host = db port=6543 user='my user' password='it\'s \\ a=b' dbname=a\ b options='-c x=1'");
    assert_eq!(info.hosts, [tcp("db", 6543)]);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("my user", "a b"));
    assert_eq!(info.password.as_deref(), Some(r"it's \ a=b"));
    assert_eq!(info.options.as_deref(), Some("-c x=1"));
    assert_eq!(parse("host=a,b,c port=1").hosts, [tcp("a", 1), tcp("b", 1), tcp("c", 1)]);
    assert_eq!(parse("host=a host=b").hosts, [tcp("b", 5432)]);
    assert_eq!(parse("host=/tmp").hosts, [unix("/tmp", 5432)]);
    let named = Host::Tcp { name: "db".into(), address: Some([10, 0, 0, 1].into()), port: 5432 };
    assert_eq!(parse("host=db hostaddr=10.0.0.1").hosts, [named]);
}

#[test]
fn defaults_and_environment() {
    let info = parse("host=h");
    assert_eq!((info.connect_timeout, info.application_name.as_str()), (Duration::from_secs(10), "rowcast"));
    assert_eq!((info.tls.mode, info.channel_binding), (SslMode::Prefer, ChannelBinding::Prefer));
    assert_eq!((info.tls.verify(), info.target), (Verify::Nothing, TargetServer::Any));

    let env = [
        ("PGHOST", "envhost"),
        ("PGPORT", "7"),
        ("PGUSER", "eu"),
        ("PGPASSWORD", "ep"),
        ("PGDATABASE", "ed"),
        ("PGSSLMODE", "require"),
        ("PGCONNECT_TIMEOUT", "3"),
        ("PGAPPNAME", "app"),
        ("PGOPTIONS", "-c a=b"),
        ("PGCHANNELBINDING", "require"),
        ("PGPASSFILE", "/p"),
        ("PGHOSTADDR", "10.0.0.9"),
    ];
    let info = parse_in("", &env).unwrap();
    let host = Host::Tcp { name: "envhost".into(), address: Some([10, 0, 0, 9].into()), port: 7 };
    assert_eq!(info.hosts, [host]);
    assert_eq!(
        (info.user.as_str(), info.dbname.as_str(), info.password.as_deref()),
        ("eu", "ed", Some("ep"))
    );
    assert_eq!((info.tls.mode, info.connect_timeout.as_secs()), (SslMode::Require, 3));
    assert_eq!((info.application_name.as_str(), info.options.as_deref()), ("app", Some("-c a=b")));
    assert_eq!((info.channel_binding, info.passfile), (ChannelBinding::Require, Some(PathBuf::from("/p"))));
    // The string wins, and its host is not mixed with the environment's address.
    let info = parse_in("postgres://u@own/d?sslmode=disable", &env).unwrap();
    assert_eq!(info.hosts, [tcp("own", 7)]);
    assert_eq!((info.user.as_str(), info.tls.mode), ("u", SslMode::Disable));
}

#[test]
fn tls_settings() {
    let info = parse("host=h sslmode=require sslrootcert=/ca.pem sslcert=/c sslkey=/k");
    assert_eq!(info.tls.verify(), Verify::Chain, "require with a root file behaves as verify-ca");
    assert_eq!(info.tls.identity, Some(Identity { cert: "/c".into(), key: "/k".into() }));
    assert_eq!(parse("host=h sslmode=require").tls.verify(), Verify::Nothing);
    assert_eq!(parse("host=h sslmode=verify-ca sslrootcert=/x").tls.verify(), Verify::Chain);
    assert_eq!(parse("host=h sslmode=verify-full").tls.verify(), Verify::ChainAndName);
    assert_eq!(parse("host=h sslrootcert=system").tls.mode, SslMode::VerifyFull);
    assert_eq!(parse("postgres://h/?ssl=true").tls.mode, SslMode::Require);
}

#[test]
fn mistakes_are_named_with_a_remedy_and_without_secrets() {
    let cases = [
        (
            "postgres://u:hunter2@h/d?sslmod=require",
            "Unknown connection parameter sslmod",
            "Did you mean sslmode?",
        ),
        ("postgres://u:hunter2@h/d?schema=public", "Unknown connection parameter schema", "Remove it"),
        (
            "postgres://u:hunter2@h/d?sslmode=on",
            "Unknown value of connection parameter sslmode",
            "verify-full",
        ),
        ("host=h password=hunter2 sslmode=allow", "sslmode=allow is not supported", "sslmode=prefer"),
        (
            "host=h password=hunter2 sslnegotiation=direct",
            "sslnegotiation=direct does not go with sslmode=prefer",
            "sslmode=verify-full",
        ),
        (
            "host=a,b password=hunter2 load_balance_hosts=random",
            "parameter load_balance_hosts is not supported",
            "in their order",
        ),
        ("host=h password=hunter2 sslcrldir=/d", "parameter sslcrldir is not supported", "sslcrl=FILE"),
        (
            "host=h password=hunter2 keepalives_idle=x",
            "keepalives_idle is not a number",
            "keepalives_idle=10",
        ),
        ("host=h password=hunter2 tcp_user_timeout=1s", "not a number of milliseconds", "leave it out"),
        (
            "host=a,b password=hunter2 target_session_attrs=master",
            "value of connection parameter target_session_attrs",
            "prefer-standby",
        ),
        (
            "host=h password=hunter2 sslmode=verify-ca",
            "needs the authority's certificate",
            "sslrootcert=FILE",
        ),
        (
            "host=h password=hunter2 sslmode=require sslrootcert=system",
            "needs sslmode=verify-full",
            "public authority",
        ),
        ("host=h password=hunter2 sslcert=/c", "sslcert is given without sslkey", "sslkey=FILE"),
        ("postgres://u:p@hunter2@h/d", "more than one @", "%40"),
        ("postgres://u:hunter2/x@h/d", "port that is not a number", "%XX"),
        ("postgres://u:%zzhunter2@h/d", "password in the source URL is not valid percent-encoding", "%25"),
        ("postgres://u:hunter2%00@h/d", "password in the source URL", "%25"),
        ("postgres://[::1/hunter2", "no closing ]", "[::1]:5432"),
        ("postgres://h/d?hunter2", "not of the form name=value", "%3D"),
        ("host=h password='hunter2", "has no end", "\\'"),
        ("host=h password=hunt er2", "word without =", "single quotes"),
        ("host=h port=1,2 password=hunter2", "as many ports", "One for each"),
        ("mysql://u:hunter2@h", "is not a Postgres URL", "postgres://"),
        ("jdbc:postgresql://h/d", "has a driver's prefix", "postgres://"),
        ("hunter2", "neither a Postgres URL", "postgres://"),
        ("host=h password=hunter2 connect_timeout=soon", "not a number of seconds", "connect_timeout=10"),
    ];
    for (text, what, hint) in cases {
        let error = parse_in(text, &[("USER", "os")]).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{text}");
        assert!(error.to_string().contains(what), "{text}: {error}");
        let remedy = error.remedy().unwrap_or_default();
        assert!(remedy.to_lowercase().contains(&hint.to_lowercase()), "{text}: {remedy}");
        assert!(!format!("{error} {remedy}").contains("hunter2"), "{text}: {error}");
    }
    let error = parse_in("host=h", &[]).unwrap_err();
    assert!(error.to_string().contains("names no user"));
}

#[test]
fn is_shown_without_the_password() {
    let info = parse("postgres://an na:hunter2@h1,[::1]:6/my db?sslmode=require");
    let shown = "postgres://an%20na@h1:5432,[::1]:6/my%20db?sslmode=require";
    assert_eq!(info.redacted(), shown);
    assert!(!format!("{info:?} {info}").contains("hunter2"));
    assert_eq!(parse(shown).hosts, info.hosts);
    assert_eq!(info.with_dbname("x").dbname, "x");
    assert_eq!(parse("postgres://u@%2Ftmp:7/d").redacted(), "postgres://u@%2Ftmp:7/d?sslmode=prefer");
}

#[test]
fn probes_are_as_the_system_takes_them() {
    let refused = |text: &str| {
        let error = Conninfo::parse(&format!("host=h user=u {text}")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{text}");
        error.remedy().unwrap().to_owned()
    };
    assert!(refused("keepalives_idle=32768").contains("keepalives_idle=32767"));
    assert!(refused("keepalives_interval=86400").contains("keepalives_interval=32767"));
    assert!(refused("keepalives_count=128").contains("keepalives_count=127"));
    assert_eq!(parse("host=h user=u keepalives_idle=32767").keepalive.idle.unwrap().as_secs(), 32_767);
    // What is not used may be anything.
    assert!(!parse("host=h user=u keepalives=0 keepalives_idle=99999").keepalive.on);
}

#[test]
fn the_password_file_is_used_only_when_private() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("rowcast-pgpass-{}", std::process::id()));
    std::fs::write(&path, "h:*:d:u:from file\n").unwrap();
    let allow = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    let info = parse(&format!("host=h user=u dbname=d passfile={}", path.display()));
    allow(0o600);
    assert_eq!(info.password_for(&info.hosts[0]).as_deref(), Some("from file"));
    assert_eq!(info.with_dbname("e").password_for(&info.hosts[0]), None);
    assert!(info.why_no_password().0.contains("nor a line of"));
    allow(0o640);
    assert_eq!(info.password_for(&info.hosts[0]), None);
    assert!(info.why_no_password().1.starts_with("chmod 0600 "));
    std::fs::remove_file(&path).unwrap();
    // What cannot be read, whoever runs the test.
    let path = std::path::Path::new("/dev/null/passwords");
    let info = parse(&format!("host=h user=u dbname=d passfile={}", path.display()));
    assert!(info.why_no_password().0.contains("cannot be read"), "{:?}", info.why_no_password());
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = parse_in(&text, &[("USER", "os")]);
        let _ = parse_in(&format!("postgres://{text}"), &[("USER", "os")]);
    }

    #[test]
    fn parsing_pieces_never_panics(parts in proptest::collection::vec(
        prop_oneof![
            Just("postgres://"), Just("@"), Just(":"), Just("/"), Just("?"), Just("["), Just("]"), Just(","),
            Just("="), Just("'"), Just("\\"), Just(" "), Just("%"), Just("%41"), Just("é"), Just("host"),
            Just("port"), Just("sslmode"), Just("&"), Just("1"),
        ], 0..24)
    ) {
        let _ = parse_in(&parts.concat(), &[("USER", "os")]);
    }

    #[test]
    fn quoted_values_come_back(value in "[^\\x00]{1,40}") {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        prop_assert_eq!(parse(&format!("host=h password='{quoted}'")).password, Some(value));
    }
}

/// A directory with service files, as libpq looks for them.
struct Services(PathBuf);

impl Services {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("rowcast-services-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        Self(dir)
    }

    fn write(&self, file: &str, text: &str) -> String {
        let path = self.0.join(file);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn parse(&self, text: &str, env: &[(&str, &str)]) -> Result<Conninfo> {
        let (home, etc) = (self.0.display().to_string(), self.0.join("etc").display().to_string());
        let own = [("USER", "os"), ("HOME", home.as_str()), ("PGSYSCONFDIR", etc.as_str())];
        parse_in(text, &[env, &own].concat())
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn services() {
    let services = Services::new("found");
    services.write("etc/pg_service.conf", "[all]\nhost=machine\n[shop]\nhost=not this one\n");
    services.write(
        ".pg_service.conf",
        "# comment\n\n[other]\nhost=wrong\n  [shop]  \nhost=a,b\nhost=second\nport=6000\nuser=anna\n\
         password=hunter2 = x\ndbname=shop\nhostaddr=10.0.0.1,10.0.0.2\n[later]\nhost=wrong\n",
    );
    let named =
        |name: &str, ip: [u8; 4]| Host::Tcp { name: name.into(), address: Some(ip.into()), port: 6000 };
    for (text, env) in
        [("service=shop", [("PGHOST", "env")]), ("postgres:///?service=shop", [("PGUSER", "env")])]
    {
        let info = services.parse(text, &env).unwrap();
        assert_eq!(info.hosts, [named("a", [10, 0, 0, 1]), named("b", [10, 0, 0, 2])]);
        assert_eq!((info.user.as_str(), info.dbname.as_str()), ("anna", "shop"));
        assert_eq!(info.password.as_deref(), Some("hunter2 = x"));
    }
    // The string wins over the service, the service over the environment.
    let info = services.parse("postgres://own@h/d", &[("PGSERVICE", "shop"), ("PGPORT", "9")]).unwrap();
    assert_eq!((info.hosts, info.user.as_str()), (vec![tcp("h", 6000)], "own"));
    assert_eq!(services.parse("service=all", &[]).unwrap().hosts, [tcp("machine", 5432)]);
    let path = services.write("named", "[shop]\nhost=named\n");
    let from_env = services.parse("service=shop", &[("PGSERVICEFILE", path.as_str())]).unwrap();
    let from_text = services.parse(&format!("service=shop servicefile={path}"), &[]).unwrap();
    assert_eq!((&from_env.hosts, &from_text.hosts), (&vec![tcp("named", 5432)], &vec![tcp("named", 5432)]));
}

#[test]
fn services_that_cannot_be_used() {
    let services = Services::new("bad");
    let path = services.write(
        ".pg_service.conf",
        "[word]\nhunter2\n[unknown]\npasswort=hunter2\n[nested]\nservice=x\n[ldap]\nldap://h/hunter2\n\
         [unsupported]\nsslcrldir=/hunter2\n",
    );
    for (name, words, hint) in [
        ("word", "Line 2 of the service file", ""),
        ("unknown", "Line 4", "Did you mean password?"),
        ("nested", "Line 6", ""),
        ("ldap", "asks an LDAP server", "Write the parameters there"),
        ("unsupported", "sslcrldir is not supported", "sslcrl=FILE"),
        ("missing", "no service \"missing\"", "Write [missing]"),
    ] {
        let error = services.parse(&format!("service={name}"), &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(words) && error.to_string().contains(&path), "{error}");
        assert!(error.remedy().unwrap_or_default().contains(hint), "{:?}", error.remedy());
        assert!(!format!("{error} {:?}", error.remedy()).contains("hunter2"), "{error}");
    }
    let error = services.parse("service=x servicefile=/nowhere", &[]).unwrap_err();
    assert!(error.to_string().contains("Cannot read the service file /nowhere"), "{error}");
}

#[test]
fn what_the_environment_asks_for_is_not_ignored() {
    for (variable, value) in
        [("PGREQUIREAUTH", "scram-sha-256"), ("PGGSSENCMODE", "require"), ("PGLOADBALANCEHOSTS", "random")]
    {
        let error = parse_in("host=h user=u", &[(variable, value)]).unwrap_err();
        assert!(error.to_string().contains(variable) && error.remedy().is_some(), "{error}");
    }
    parse_in("host=h user=u", &[("PGGSSENCMODE", "prefer"), ("PGREQUIREAUTH", "")]).unwrap();
}
