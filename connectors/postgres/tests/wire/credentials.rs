//! Who we are: password files, services, certificates and keys; and which servers' certificates were revoked.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rowcast_engine::Kind;

use super::{Certificates, login, one, refusal};
use crate::support::Server;

#[tokio::test]
async fn password_files_and_services() {
    let server = Server::start("");
    let mut admin = login(&server.admin()).await;
    admin.simple_query("CREATE ROLE anna LOGIN REPLICATION PASSWORD 'the secret'").await.unwrap();
    server.admit("host all anna all scram-sha-256");
    let (port, dir) = (server.port, server.dir().display());
    let allow = |file: &str, mode| {
        std::fs::set_permissions(server.dir().join(file), Permissions::from_mode(mode)).unwrap();
    };

    server.write("passwords", &format!("# for tests\n127.0.0.1:{port}:postgres:anna:the secret\n"));
    let text = format!("host=127.0.0.1 port={port} user=anna dbname=postgres passfile={dir}/passwords");
    assert_eq!(one(&mut login(&text).await, "SELECT current_user").await, "anna");
    refusal(&text.replace("dbname=postgres", "dbname=template1"), Kind::Refused, "and none is given").await;
    allow("passwords", 0o640);
    let error = refusal(&text, Kind::Refused, "and none is given").await;
    assert!(error.remedy().unwrap().contains(&format!("chmod 0600 {dir}/passwords")), "{:?}", error.remedy());
    allow("passwords", 0o600);

    server.write(
        "services",
        &format!("[shop]\nhost=127.0.0.1,127.0.0.1\nport=1,{port}\nuser=anna\npassfile={dir}/passwords\n"),
    );
    let text = format!("service=shop servicefile={dir}/services dbname=postgres");
    assert_eq!(one(&mut login(&text).await, "SELECT current_user").await, "anna");
    let url =
        format!("postgres:///postgres?service=shop&servicefile={dir}/services&target_session_attrs=primary");
    assert_eq!(one(&mut login(&url).await, "SELECT current_database()").await, "postgres");
}

#[tokio::test]
async fn certificates_of_clients() {
    let server = Server::start("");
    let (ours, theirs) = (Certificates::new(&server, "ours"), Certificates::new(&server, "theirs"));
    ours.issue("server", "localhost", &["localhost"]);
    ours.issue("client", "anna", &[]);
    theirs.issue("stranger", "anna", &[]);
    let mut admin = login(&server.admin()).await;
    admin.simple_query("CREATE ROLE anna LOGIN REPLICATION").await.unwrap();
    for setting in ["ssl_cert_file = 'server.crt'", "ssl_ca_file = 'ours.crt'", "ssl = on"] {
        admin.simple_query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    server.admit("hostssl all anna all cert");
    let (port, dir) = (server.port, server.dir().display());
    let with = |cert: &str, key: &str| {
        format!(
            "host=localhost port={port} user=anna dbname=postgres sslmode=verify-full sslrootcert={dir}/ours.crt \
             sslcert={dir}/{cert}.crt sslkey={dir}/{key}.key"
        )
    };
    let who = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert!(one(&mut login(&with("client", "client")).await, who).await.contains("CN=anna"));
    // Whether the handshake or what follows it fails depends on the protocol's version.
    refusal(&with("stranger", "stranger"), Kind::Refused, "refuses this client's TLS").await;
    refusal(&with("client", "stranger"), Kind::Usage, "do not go together").await;
    refusal(&with("client", "nowhere"), Kind::Usage, "Cannot read sslkey").await;
    let key = server.dir().join("client.key");
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let error = refusal(&with("client", "client"), Kind::Usage, "may be read by others").await;
    assert!(error.remedy().unwrap().starts_with("chmod 0600 "), "{:?}", error.remedy());
}

/// An authority that can revoke what it has issued.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Its list of revoked certificates, current or run out.
fn list(authority: &CertifiedIssuer<'static, KeyPair>, serials: &[u64], year: i32) -> String {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: rcgen::date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(authority).unwrap().pem().unwrap()
}

#[tokio::test]
async fn revoked_certificates_of_servers() {
    let server = Server::start("");
    let (ours, other, namesake) = (authority("ours"), authority("other"), authority("ours"));
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.serial_number = Some(SerialNumber::from(42_u64));
    let key = KeyPair::generate().unwrap();
    server.write("server.crt", &params.signed_by(&key, &ours).unwrap().pem());
    server.write("server.key", &key.serialize_pem());
    server.write("ours.crt", &ours.pem());
    server.write("clean.crl", &list(&ours, &[7], 2100));
    server.write("revoked.crl", &list(&ours, &[7, 42], 2100));
    server.write("old.crl", &list(&ours, &[7], 2021));
    server.write("other.crl", &list(&other, &[], 2100));
    server.write("forged.crl", &list(&namesake, &[], 2100));
    let mut admin = login(&server.admin()).await;
    for setting in ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl = on"] {
        admin.simple_query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    server.admit("hostssl all all all trust");
    let (port, dir) = (server.port, server.dir().display());
    let with = |list: &str| {
        format!(
            "host=localhost port={port} user=postgres dbname=postgres sslmode=verify-full \
             sslrootcert={dir}/ours.crt sslcrl={dir}/{list}"
        )
    };
    login(&with("clean.crl")).await;
    refusal(&with("revoked.crl"), Kind::Refused, "has been revoked").await;
    refusal(&with("old.crl"), Kind::Refused, "Nobody says whether").await;
    refusal(&with("other.crl"), Kind::Refused, "Nobody says whether").await;
    refusal(&with("forged.crl"), Kind::Refused, "does not fit").await;
    refusal(&with("ours.crt"), Kind::Usage, "Cannot read sslcrl").await;
}
