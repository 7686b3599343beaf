//! TLS from the first byte.

use rowcast_engine::Kind;

use super::{Certificates, login, one, refusal};
use crate::support::Server;

/// Servers from this on understand it.
const SINCE: u32 = 170_000;

#[tokio::test]
async fn without_asking_for_tls_first() {
    let server = Server::start("");
    Certificates::new(&server, "ours").issue("server", "localhost", &["localhost"]);
    let mut admin = login(&server.admin()).await;
    for setting in ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl = on"] {
        admin.simple_query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    server.admit("hostssl all all all trust");
    let text = format!(
        "host=localhost port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={}/ours.crt \
         sslnegotiation=direct",
        server.port,
        server.dir().display()
    );
    if admin.server_version() < SINCE {
        let error = refusal(&text, Kind::Transient, "TLS handshake").await;
        assert!(error.remedy().unwrap().contains("Postgres 17 or newer"), "{:?}", error.remedy());
        return;
    }
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(one(&mut login(&text).await, ssl).await, "t");
}
