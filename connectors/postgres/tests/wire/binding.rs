//! Logins that are bound to the TLS channel: whoever stands in between with a certificate of his own does not get one, even
//! where nobody checks certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rowcast_engine::Kind;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Certificates, connect, login, one, refusal};
use crate::support::Server;

/// The request for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Who answers for a server, with a certificate that he has made himself.
fn impostor() -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// How he comes to the server himself.
fn customer(of: &Certificates<'_>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(of.authority.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Answers a client's request for TLS.
async fn accept(listener: &TcpListener, impostor: &TlsAcceptor) -> TlsStream<TcpStream> {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut request = [0; SSL_REQUEST.len()];
    client.read_exact(&mut request).await.unwrap();
    assert_eq!(request, SSL_REQUEST);
    client.write_all(b"S").await.unwrap();
    impostor.accept(client).await.unwrap()
}

/// Passes on all that both say, and could read it; gives where it listens.
async fn relay(server: SocketAddr, customer: TlsConnector) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let impostor = impostor();
        loop {
            let mut client = accept(&listener, &impostor).await;
            let mut server = TcpStream::connect(server).await.unwrap();
            server.write_all(&SSL_REQUEST).await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'S');
            let mut server =
                customer.connect(ServerName::try_from("localhost").unwrap(), server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    port
}

#[tokio::test]
async fn a_login_does_not_pass_through_somebody_in_between() {
    let server = Server::start("");
    let ours = Certificates::new(&server, "ours");
    ours.issue("server", "localhost", &["localhost"]);
    let mut admin = login(&server.admin()).await;
    admin.simple_query("CREATE ROLE anna LOGIN REPLICATION PASSWORD 'secret'").await.unwrap();
    for setting in ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl = on"] {
        admin.simple_query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    server.admit("hostssl all anna all scram-sha-256");
    let at = |port: u16, binding: &str| {
        format!(
            "host=localhost port={port} user=anna password=secret dbname=postgres sslmode=require \
             channel_binding={binding}"
        )
    };
    let between = relay(server.address(), customer(&ours)).await;
    for binding in ["require", "prefer"] {
        login(&at(server.port, binding)).await;
        refusal(&at(between, binding), Kind::Refused, "channel binding check failed").await;
    }
    // It is not the way that refuses: whoever does not bind is let in, and is read by somebody.
    assert_eq!(one(&mut login(&at(between, "disable")).await, "SELECT current_user").await, "anna");
}

/// A server that offers SCRAM without binding, as old ones do, and as somebody does from whose way the better offer was taken;
/// it gives what the client says to that.
async fn offers_no_binding() -> (u16, JoinHandle<Vec<u8>>) {
    const OFFER: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut client = accept(&listener, &impostor()).await;
        let length = client.read_u32().await.unwrap() as usize;
        client.read_exact(&mut vec![0; length - 4]).await.unwrap();
        client.write_all(OFFER).await.unwrap();
        client.flush().await.unwrap();
        let mut said = vec![0; 64];
        // Whoever leaves says nothing, with or without a word of TLS.
        let length = client.read(&mut said).await.unwrap_or(0);
        said.truncate(length);
        said
    });
    (port, task)
}

#[tokio::test]
async fn an_offer_without_binding() {
    for (binding, flag) in [("require", None), ("prefer", Some("y,,n=")), ("disable", Some("n,,n="))] {
        let (port, said) = offers_no_binding().await;
        let text = format!(
            "host=localhost port={port} user=anna password=secret dbname=postgres sslmode=require \
             channel_binding={binding}"
        );
        let refused = connect(&text).await.err().unwrap();
        let said = String::from_utf8_lossy(&said.await.unwrap()).into_owned();
        match flag {
            None => {
                assert!(
                    refused.to_string().contains("does not bind the login to the TLS channel"),
                    "{refused}"
                );
                assert!(refused.remedy().is_some_and(|remedy| remedy.contains("channel_binding=prefer")));
                assert_eq!(said, "", "nothing that a password could be guessed from");
            }
            // `y` has a server refuse that does bind, and whose offer did not arrive.
            Some(flag) => {
                assert!(said.contains("SCRAM-SHA-256\0") && said.contains(flag), "{binding}: {said}")
            }
        }
    }
}
