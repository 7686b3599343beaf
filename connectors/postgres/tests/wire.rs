//! Logins in all their forms, and the replication stream.

mod binding;
mod credentials;
mod direct;
pub(crate) mod hostile;
pub(crate) mod hosts;

use std::net::TcpListener;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rowcast_engine::{Error, Kind, Lsn};
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::{Connection, CopyFrame, CopyStream, DbError, Purpose, sql_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::Server;

/// No test waits longer for something that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

async fn connect(text: &str) -> Result<Connection, Error> {
    Connection::connect(&Conninfo::parse(text).unwrap(), Purpose::Replication).await
}

async fn login(text: &str) -> Connection {
    connect(text).await.unwrap_or_else(|e| panic!("{text}: {e}; {:?}", e.remedy()))
}

/// A login that must fail with these words, a remedy, and no password in either.
async fn refusal(text: &str, kind: Kind, words: &str) -> Error {
    let Err(error) = connect(text).await else { panic!("{text}: was let in") };
    assert!(error.to_string().contains(words), "{text}: {error}");
    assert_eq!(error.kind(), kind, "{text}: {error}");
    assert!(error.remedy().is_some_and(|r| !r.is_empty()), "{text}: {error} has no remedy");
    assert!(!format!("{error} {error:?} {:?}", error.remedy()).contains("secret"), "{error}");
    error
}

async fn one(connection: &mut Connection, sql: &str) -> String {
    connection.simple_query(sql).await.unwrap()[0][0].clone().unwrap()
}

fn sqlstate(error: &Error) -> String {
    let cause = std::error::Error::source(error).unwrap();
    cause.downcast_ref::<DbError>().unwrap().code.clone()
}

#[tokio::test]
async fn passwords() {
    let server = Server::start("");
    let mut admin = login(&server.admin()).await;
    for (role, encryption) in
        [("md5_user", "md5"), ("scram_user", "scram-sha-256"), ("clear_user", "scram-sha-256")]
    {
        let sql = format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'"
        );
        admin.simple_query(&sql).await.unwrap();
    }
    admin
        .simple_query("CREATE ROLE plain LOGIN PASSWORD 'secret'; CREATE ROLE trusted LOGIN REPLICATION")
        .await
        .unwrap();
    server.admit(
        "host all md5_user all md5\nhost all scram_user all scram-sha-256\nhost all plain all scram-sha-256\n\
         host all clear_user all password\nlocal all clear_user password\nhost all trusted all trust\n\
         local all trusted peer\n",
    );
    let (port, dir) = (server.port, server.dir().display());
    let at = |user: &str, rest: &str| format!("postgres://{user}:secret@127.0.0.1:{port}/postgres{rest}");

    for user in ["md5_user", "scram_user", "trusted"] {
        let mut connection = login(&at(user, "")).await;
        assert_eq!(one(&mut connection, "SELECT current_user").await, user);
        assert!(connection.is_tcp());
    }
    // Containers may have no IPv6.
    if TcpListener::bind("[::1]:0").is_ok() {
        let mut ipv6 = login(&format!("postgres://scram_user:secret@[::1]:{port}/postgres")).await;
        assert_eq!(one(&mut ipv6, "SELECT host(inet_client_addr())").await, "::1");
    }
    // In clear text only where nobody can listen.
    refusal(&at("clear_user", ""), Kind::Refused, "in clear text over a connection without TLS").await;
    let connection =
        login(&format!("host={dir} port={port} user=clear_user password=secret dbname=postgres")).await;
    assert!(!connection.is_tcp());

    let wrong = at("scram_user", "").replace("secret", "wrong");
    let error = refusal(&wrong, Kind::Refused, "refuses the password of user \"scram_user\"").await;
    assert_eq!(sqlstate(&error), "28P01");
    refusal(&at("md5_user", "").replace("secret", "wrong"), Kind::Refused, "refuses the password").await;
    refusal(&at("scram_user", "").replace(":secret", ""), Kind::Refused, "and none is given").await;
    let nowhere = at("scram_user", "").replace("/postgres", "/nowhere");
    let nowhere = refusal(&nowhere, Kind::Refused, "no database \"nowhere\"").await;
    for (error, code) in [(&error, "28P01"), (&nowhere, "3D000")] {
        // Once is enough.
        let words = error.to_string();
        assert!(words.ends_with(&format!("\": SQLSTATE {code}")), "{words}");
    }
    refusal(&at("nobody", ""), Kind::Refused, "no pg_hba.conf entry").await;
    refusal(
        &format!("host={dir} port={port} user=trusted dbname=postgres"),
        Kind::Refused,
        "does not let user",
    )
    .await;
    refusal(&at("plain", ""), Kind::Refused, "denies user \"plain\"").await;
    // Without TLS there is nothing to bind to, and no password is sent.
    let unbound = refusal(&at("scram_user", "?channel_binding=require"), Kind::Refused, "needs TLS").await;
    assert!(unbound.remedy().unwrap().contains("ssl = on"), "{:?}", unbound.remedy());
    let socket = format!("host={dir} port={port} user=clear_user dbname=postgres channel_binding=require");
    let unbound = refusal(&socket, Kind::Refused, "needs TLS").await;
    assert!(unbound.remedy().unwrap().contains("Unix socket"), "{:?}", unbound.remedy());
    refusal(&at("scram_user", "?sslmode=require"), Kind::Refused, "does not offer TLS").await;
}

/// An authority and certificates that it issued, as PEM files in `dir`.
pub(crate) struct Certificates<'a> {
    server: &'a Server,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl<'a> Certificates<'a> {
    pub(crate) fn new(server: &'a Server, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        server.write(&format!("{name}.crt"), &authority.pem());
        Self { server, authority }
    }

    pub(crate) fn issue(&self, file: &str, common_name: &str, alternatives: &[&str]) {
        let names: Vec<_> = alternatives.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.server.write(&format!("{file}.crt"), &certificate.pem());
        self.server.write(&format!("{file}.key"), &key.serialize_pem());
    }
}

#[tokio::test]
async fn tls() {
    let server = Server::start("");
    let mut admin = login(&server.admin()).await;
    admin.simple_query("CREATE ROLE anna LOGIN REPLICATION PASSWORD 'secret'").await.unwrap();
    let (ours, _) = (Certificates::new(&server, "ours"), Certificates::new(&server, "theirs"));
    ours.issue("server", "unused", &["localhost"]);
    ours.issue("client", "anna", &[]);
    for setting in ["ssl_cert_file = 'server.crt'", "ssl_ca_file = 'ours.crt'", "ssl = on"] {
        admin.simple_query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    server.admit("hostssl postgres anna all scram-sha-256\nhostssl template1 anna all cert\nhost all anna 127.0.0.1/32 scram-sha-256");
    let (port, dir) = (server.port, server.dir().display());
    let at = |host: &str, rest: &str| {
        format!("host={host} port={port} user=anna password=secret dbname=postgres {rest}")
    };

    // Mode, host, root file, what comes of it: Ok(whether TLS is used) or the error's words.
    let cases: [(&str, &str, &str, Result<&str, &str>); 12] = [
        ("disable", "127.0.0.1", "", Ok("f")),
        ("prefer", "127.0.0.1", "", Ok("t")),
        ("require", "127.0.0.1", "", Ok("t")),
        ("require", "127.0.0.1", "ours", Ok("t")),
        ("require", "localhost", "theirs", Err("is not trusted")),
        ("verify-ca", "127.0.0.1", "ours", Ok("t")),
        ("verify-ca", "localhost", "theirs", Err("is not trusted")),
        ("verify-full", "localhost", "ours", Ok("t")),
        ("verify-full", "127.0.0.1", "ours", Err("made out to another name")),
        ("verify-full", "localhost", "theirs", Err("is not trusted")),
        ("verify-full", "localhost", "", Err("is not trusted")),
        ("verify-full", "localhost", "missing", Err("Cannot read sslrootcert")),
    ];
    for (mode, host, root, expected) in cases {
        let root = if root.is_empty() { String::new() } else { format!("sslrootcert={dir}/{root}.crt") };
        let text = at(host, &format!("sslmode={mode} {root}"));
        match expected {
            Ok(used) => {
                let mut connection = login(&text).await;
                let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                assert_eq!(one(&mut connection, ssl).await, used, "{text}");
            }
            Err(words) => {
                let kind = if words.starts_with("Cannot") { Kind::Usage } else { Kind::Refused };
                refusal(&text, kind, words).await;
            }
        }
    }
    // Bound to the channel, and a certificate in place of a password.
    login(&at("localhost", "sslmode=require channel_binding=require")).await;
    login(&at("localhost", "sslmode=require channel_binding=disable")).await;
    refusal(&at("127.0.0.1", "sslmode=disable channel_binding=require"), Kind::Refused, "needs TLS").await;
    // The older protocol, which proves the certificate's key in another way.
    admin.simple_query("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'").await.unwrap();
    admin.simple_query("SELECT pg_reload_conf()").await.unwrap();
    let verified = at("localhost", &format!("sslmode=verify-full sslrootcert={dir}/ours.crt"));
    let version = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(one(&mut login(&verified).await, version).await, "TLSv1.2");
    let cert = at("localhost", &format!("sslmode=require sslcert={dir}/client.crt sslkey={dir}/client.key"));
    login(&cert.replace("dbname=postgres", "dbname=template1")).await;
    let without = at("localhost", "sslmode=require").replace("dbname=postgres", "dbname=template1");
    refusal(&without, Kind::Refused, "asks for a client certificate").await;
    // A certificate in place of SCRAM binds nothing.
    let unbound = cert.replace("dbname=postgres", "dbname=template1 channel_binding=require");
    refusal(&unbound, Kind::Refused, "does not bind the login").await;
}

/// What `openssl req -x509` makes and the manual of Postgres shows: self-signed, may sign others, no alternative
/// names. libpq accepts it as its own root, by its common name.
#[tokio::test]
async fn a_self_signed_certificate_is_its_own_root() {
    let server = Server::start("");
    let own = Certificates::new(&server, "localhost");
    server.write("localhost.key", &own.authority.key().serialize_pem());
    let mut admin = login(&server.admin()).await;
    for setting in ["ssl_cert_file = 'localhost.crt'", "ssl_key_file = 'localhost.key'", "ssl = on"] {
        admin.simple_query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    server.admit("hostssl all all all trust");
    let (port, dir) = (server.port, server.dir().display());
    let at = |host: &str, rest: &str| {
        format!(
            "host={host} port={port} user=postgres dbname=postgres sslrootcert={dir}/localhost.crt sslmode={rest}"
        )
    };
    login(&at("localhost", "verify-full")).await;
    login(&at("127.0.0.1", "verify-ca")).await;
    refusal(&at("127.0.0.1", "verify-full"), Kind::Refused, "TLS certificate").await;
}

#[tokio::test]
async fn unreachable_servers_and_several_hosts() {
    let server =
        Server::start("max_connections = 4\nmax_wal_senders = 1\nsuperuser_reserved_connections = 0");
    server.admit("host all all all trust");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, dead) = (server.port, silent.local_addr().unwrap().port());
    refusal("host=127.0.0.1 port=1 user=postgres", Kind::Transient, "127.0.0.1:1 is unreachable").await;
    // Longer than a name may be: no name server is asked.
    let nowhere = format!("{}.invalid", "x".repeat(64));
    let unresolved = format!("\"{nowhere}\" cannot be resolved");
    refusal(&format!("host={nowhere} user=postgres"), Kind::Transient, &unresolved).await;
    refusal("host=/nowhere user=postgres", Kind::Transient, "/nowhere/.s.PGSQL.5432 is unreachable").await;
    let slow = format!("host=127.0.0.1 port={dead} user=postgres connect_timeout=2");
    refusal(&slow, Kind::Transient, "no login within 2 s").await;

    let both =
        format!("postgres://postgres@127.0.0.1:1,127.0.0.1:{port}/postgres?target_session_attrs=primary");
    let mut first = login(&both).await;
    assert_eq!(one(&mut first, "SELECT 1").await, "1");
    let standby = Conninfo::parse(&both.replace("primary", "standby")).unwrap();
    let error = Connection::connect(&standby, Purpose::Query).await.err().unwrap();
    assert!(error.to_string().contains("not what target_session_attrs=standby asks"), "{error}");
    // A refusal for good ends the search.
    let wrong = format!("postgres://postgres@127.0.0.1:{port},127.0.0.1:1/nowhere");
    let error = Connection::connect(&Conninfo::parse(&wrong).unwrap(), Purpose::Query).await.err().unwrap();
    assert!(error.to_string().contains("no database \"nowhere\""), "{error}");
    // The only walsender is taken.
    let full = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    refusal(&full, Kind::Transient, "too many connections").await;
}

/// Settings of the role cannot change how values are written.
#[tokio::test]
async fn the_session_is_pinned() {
    let server = Server::start("");
    let mut admin = login(&server.admin()).await;
    let hostile = "DateStyle = 'German'; TimeZone = 'Asia/Tokyo'; IntervalStyle = 'sql_standard'; bytea_output = 'escape'; \
                   extra_float_digits = -15; search_path = 'public'; statement_timeout = 1; idle_session_timeout = '5s'; \
                   client_encoding = 'LATIN1'; standard_conforming_strings = off; quote_all_identifiers = on";
    admin.simple_query("CREATE ROLE hostile SUPERUSER LOGIN").await.unwrap();
    for setting in hostile.split("; ") {
        admin.simple_query(&format!("ALTER ROLE hostile SET {setting}")).await.unwrap();
    }
    admin.simple_query("CREATE TABLE public.t ()").await.unwrap();
    server.admit("local all hostile trust");
    let text =
        server.admin().replace("user=postgres", "user=hostile options='-c DateStyle=German -c work_mem=5MB'");
    let values = "SELECT timestamptz '2020-03-01 12:00+00', interval '1 day 2 hours', 0.1::float8 + 0.2, \
                  '\\x00ff'::bytea, 'public.t'::regclass, 'é', current_setting('work_mem'), \
                  current_setting('idle_session_timeout'), pg_sleep(0.05)::text";
    let expected =
        ["2020-03-01 12:00:00+00", "P1DT2H", "0.30000000000000004", "\\x00ff", "public.t", "é", "5MB", "0"];
    for purpose in [Purpose::Replication, Purpose::Query] {
        let mut connection = Connection::connect(&Conninfo::parse(&text).unwrap(), purpose).await.unwrap();
        let row = connection.simple_query(values).await.unwrap().remove(0);
        assert_eq!(row.iter().flatten().take(8).collect::<Vec<_>>(), expected);
        assert!(connection.server_version() >= 140_000 && connection.process_id() > 0);
    }
}

#[tokio::test]
async fn queries_and_their_errors() {
    let server = Server::start("");
    let mut connection = login(&server.admin()).await;
    let rows = connection.simple_query("SELECT 1, NULL; SELECT 'b', ''").await.unwrap();
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(rows, [[text("1"), None], [text("b"), text("")]]);
    let system = connection.simple_query("IDENTIFY_SYSTEM").await.unwrap().remove(0);
    assert_eq!(system[3].as_deref(), Some("postgres"));
    let error = connection.simple_query("SELECT 'secret' FROM nowhere").await.unwrap_err();
    assert_eq!((error.kind(), sqlstate(&error).as_str()), (Kind::Refused, "42P01"));
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(one(&mut connection, "SELECT 2").await, "2");

    let client = sql_client(&Conninfo::parse(&server.admin()).unwrap()).await.unwrap();
    assert_eq!(client.query_one("SELECT $1::int4 + 1", &[&41]).await.unwrap().get::<_, i32>(0), 42);
    assert_eq!(client.query_one("SHOW TimeZone", &[]).await.unwrap().get::<_, String>(0), "UTC");
    let error = client.query_one("SELECT * FROM nowhere", &[]).await.unwrap_err();
    let error = rowcast_postgres::wire::sql_error("Cannot read", error);
    assert_eq!((error.kind(), sqlstate(&error).as_str()), (Kind::Refused, "42P01"));

    // A session that the server ends is a passing trouble, on both.
    let pid = connection.process_id();
    client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    let error = connection.simple_query("SELECT 3").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{error}");
    assert_eq!(connection.simple_query("SELECT 3").await.unwrap_err().kind(), Kind::Transient);
    server.stop();
    let error = client.query_one("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(rowcast_postgres::wire::sql_error("Cannot read", error).kind(), Kind::Transient);
}

/// Reads until the stream has given as many commits, answering keepalives; the type bytes seen.
async fn read_commits(stream: &mut CopyStream, commits: usize) -> (String, Lsn) {
    let (mut tags, mut last, mut wanted) = (String::new(), Lsn::ZERO, false);
    let reading = async {
        while tags.matches('C').count() < commits {
            while let Some(frame) = stream.next().unwrap() {
                match frame {
                    CopyFrame::Data { start, body, sent, .. } => {
                        assert!(sent > 0);
                        last = last.max(start);
                        tags.push(char::from(body[0]));
                    }
                    CopyFrame::Keepalive { reply, .. } => wanted |= reply,
                }
            }
            if std::mem::take(&mut wanted) {
                stream.send_status(last, Lsn::ZERO, Lsn::ZERO, false).await.unwrap();
            }
            if tags.matches('C').count() < commits {
                stream.fill().await.unwrap();
            }
        }
    };
    timeout(DEADLINE, reading).await.unwrap();
    (tags, last)
}

#[tokio::test]
async fn replication() {
    let server = Server::start("");
    server.admit("host all all all trust");
    let mut admin = login(&server.admin()).await;
    admin
        .simple_query(
            "CREATE TABLE public.t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE public.t",
        )
        .await
        .unwrap();
    admin.simple_query("CREATE_REPLICATION_SLOT s LOGICAL pgoutput NOEXPORT_SNAPSHOT").await.unwrap();
    let tcp = format!("postgres://postgres@127.0.0.1:{}/postgres", server.port);
    let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names '\"p\"')";
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 's'";
    for (transport, text) in [("unix", server.admin()), ("tcp", tcp)] {
        admin.simple_query("INSERT INTO public.t SELECT i, 'x' FROM generate_series(1, 3) i").await.unwrap();
        // A value that no read can hold at once.
        admin
            .simple_query("UPDATE public.t SET v = repeat('0123456789', 1000000) WHERE id = 1")
            .await
            .unwrap();
        let mut stream = login(&text).await.start_replication(start).await.unwrap();
        assert_eq!(stream.is_tcp(), transport == "tcp");
        let (tags, last) = read_commits(&mut stream, 2).await;
        assert_eq!(tags, "BRIIICBUC", "{transport}");
        // In use, until it is given back in order.
        let error = login(&text).await.start_replication(start).await.err().unwrap();
        assert_eq!((error.kind(), sqlstate(&error).as_str()), (Kind::Transient, "55006"));
        stream.send_status(last, last, last, false).await.unwrap();
        stream.finish().await;
        assert_eq!(one(&mut admin, confirmed).await.parse(), Ok(last));
        admin.simple_query("TRUNCATE public.t").await.unwrap();
        admin.simple_query("SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())").await.unwrap();
    }
    let missing = start.replace("SLOT s", "SLOT missing");
    let error = login(&server.admin()).await.start_replication(&missing).await.err().unwrap();
    assert_eq!((error.kind(), sqlstate(&error).as_str()), (Kind::Refused, "42704"));
}

/// The server's end is an error that stays.
#[tokio::test]
async fn a_stopped_server_ends_the_stream() {
    let server = Server::start("");
    let mut connection = login(&server.admin()).await;
    connection
        .simple_query("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        .await
        .unwrap();
    connection.simple_query("CREATE PUBLICATION p").await.unwrap();
    let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
    let mut stream = connection.start_replication(start).await.unwrap();
    server.stop();
    let error = timeout(DEADLINE, async {
        loop {
            while let Some(frame) = stream.next()? {
                // Up to version 14 a transaction that changed nothing for us is told, too: its two ends.
                let nothing = match &frame {
                    CopyFrame::Keepalive { .. } => true,
                    CopyFrame::Data { body, .. } => matches!(body.first(), Some(b'B' | b'C')),
                };
                assert!(nothing, "{frame:?}");
            }
            stream.fill().await?;
        }
    });
    let error: Result<(), Error> = error.await.unwrap();
    assert_eq!(error.unwrap_err().kind(), Kind::Transient);
    assert_eq!(stream.next().unwrap_err().kind(), Kind::Transient);
    assert_eq!(stream.fill().await.unwrap_err().kind(), Kind::Transient);
}

/// Bytes that somebody slips in between the answer and the handshake never count as the server's.
#[tokio::test]
async fn nothing_is_read_between_the_tls_answer_and_the_handshake() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let impostor = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
        // AuthenticationOk and ReadyForQuery in clear text.
        stream.write_all(b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.unwrap();
        stream
    };
    let text = format!("host=127.0.0.1 port={port} user=u sslmode=require");
    let (_stream, error) = tokio::join!(impostor, refusal(&text, Kind::Refused, "TLS with Postgres"));
    assert!(error.to_string().contains("TLS"));
}
