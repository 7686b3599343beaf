//! Starting TLS on a fresh TCP connection.

use std::path::Path;
use std::sync::Arc;

use rowcast_engine::{Error, Result};
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::not_let_in::NotLetIn;
use super::remedy;
use super::socket::Socket;
use super::verifier::Verifier;
use crate::conninfo::{Host, Identity, Roots, SslMode, Tls, Verify};

/// The protocol's name in a handshake that nobody was asked about.
const ALPN: &[u8] = b"postgresql";

/// The request that asks for TLS before anything else: length 8 and a version number nobody has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// Asks for TLS, if the mode wants it, and shakes hands.
///
/// # Errors
///
/// `Kind::Refused` when the server has no TLS or its certificate does not do, `Kind::Transient` when the
/// connection breaks, `Kind::Usage` for unreadable certificate files.
pub(super) async fn start(socket: Socket, host: &Host, tls: &Tls) -> Result<Socket> {
    let mut stream = match socket {
        Socket::Tcp(stream) if tls.mode != SslMode::Disable => stream,
        other => return Ok(other),
    };
    // Read first, so that an unreadable file is reported whatever the server says.
    let mut config = client_config(tls)?;
    if tls.direct {
        // Protects a server that speaks this protocol from clients of others, and the other way round.
        config.alpn_protocols = vec![ALPN.to_vec()];
        return direct(handshake(stream, host, config, tls.verify()).await, host);
    }
    if !offered(&mut stream).await.map_err(|e| remedy::broken(host, e))? {
        return match tls.mode {
            SslMode::Prefer | SslMode::Disable => Ok(Socket::Tcp(stream)),
            mode => Err(Error::refused(format!(
                "Postgres at {host} does not offer TLS, which sslmode={} requires",
                mode.as_str()
            ))
            .hint("Turn it on in postgresql.conf (ssl = on, ssl_cert_file, ssl_key_file), or use sslmode=prefer")),
        };
    }
    handshake(stream, host, config, tls.verify()).await
}

/// What came of a handshake that the server was not asked about.
fn direct(shaken: Result<Socket>, host: &Host) -> Result<Socket> {
    const HINT: &str =
        "It takes Postgres 17 or newer, with nothing in between: leave sslnegotiation=direct out";
    match shaken {
        Ok(socket) if socket.protocol() == Some(ALPN) => Ok(socket),
        Ok(_) => {
            Err(Error::refused(format!("The server at {host} does not say that it is Postgres")).hint(HINT))
        }
        Err(error) if error.remedy().is_none() => Err(error.hint(HINT)),
        error => error,
    }
}

/// Only the one byte of the answer is read, and nothing is ever buffered before the handshake: whatever an
/// attacker slips in behind it meets the TLS library, never the login.
async fn offered(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.write_all(&SSL_REQUEST).await?;
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // A server that fails before it can negotiate answers with an error; its text cannot be trusted.
        _ => Err(std::io::Error::other("the server answered the request for TLS with something else")),
    }
}

async fn handshake(
    stream: TcpStream,
    host: &Host,
    mut config: ClientConfig,
    verify: Verify,
) -> Result<Socket> {
    let name = match host {
        Host::Tcp { name, .. } => name.trim_end_matches('.').to_owned(),
        Host::Unix { .. } => String::new(),
    };
    let name = match ServerName::try_from(name) {
        Ok(name) => name,
        Err(_) if verify != Verify::ChainAndName => ServerName::from(std::net::Ipv4Addr::UNSPECIFIED),
        Err(e) => {
            return Err(Error::usage(format!("No certificate can be made out to {host}"))
                .because(e)
                .hint("Use a proper host name, or sslmode=verify-ca"));
        }
    };
    config.enable_sni = matches!(name, ServerName::DnsName(_));
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Socket::Tls(Box::new(stream))),
        Err(e) => Err(remedy::handshake(host, e)),
    }
}

fn client_config(tls: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(tls, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::failed("Cannot set up TLS").because(e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(identity) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = read_identity(identity)?;
    builder.with_client_auth_cert(chain, key).map_err(|e| {
        let (cert, key) = (identity.cert.display(), identity.key.display());
        Error::usage(format!("The client certificate {cert} and the key {key} do not go together"))
            .because(NotLetIn::because(e))
            .hint("Name the key that the certificate was made for with sslkey=FILE")
    })
}

fn verifier(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Verifier> {
    let verify = tls.verify();
    let trusted = match (&tls.roots, verify) {
        (_, Verify::Nothing) => Vec::new(),
        (Some(Roots::File(path)), _) => read_certificates(path, "sslrootcert")?,
        (Some(Roots::System) | None, _) => rustls_native_certs::load_native_certs().certs,
    };
    // As in libpq, where the chain is not checked nobody asks what was revoked.
    let revoked = tls.revoked.as_deref().filter(|_| verify != Verify::Nothing);
    let revoked = revoked.map(read_revoked).transpose()?.unwrap_or_default();
    Verifier::new(provider, verify, trusted, revoked).map_err(|e| {
        Error::usage("There is no trusted root certificate to check the server's with")
            .because(NotLetIn::because(e))
            .hint("Install ca-certificates, or name the authority's file with sslrootcert=FILE")
    })
}

fn read_revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let unreadable = |e| unreadable(path, "sslcrl", e);
    let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if lists.is_empty() {
        return Err(unreadable(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(lists)
}

fn read_certificates(path: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |e| unreadable(path, parameter, e);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(unreadable(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn read_identity(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = read_certificates(&identity.cert, "sslcert")?;
    refuse_open_key(&identity.key)?;
    let key =
        PrivateKeyDer::from_pem_file(&identity.key).map_err(|e| unreadable(&identity.key, "sslkey", e))?;
    Ok((chain, key))
}

/// libpq's rule: nobody but the owner, or root and a group.
fn refuse_open_key(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    // A file that is not there is reported when it is read.
    let Ok(about) = std::fs::metadata(path) else { return Ok(()) };
    let forbidden = if about.uid() == 0 { 0o137 } else { 0o177 };
    if about.mode() & forbidden & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(Error::usage(format!("The private key {path} is not used"))
        .because(NotLetIn::because("it may be read by others"))
        .hint(format!("chmod 0600 {path}")))
}

fn unreadable(path: &Path, parameter: &str, cause: rustls::pki_types::pem::Error) -> Error {
    Error::usage(format!("Cannot read {parameter} {}", path.display()))
        .because(NotLetIn::because(cause))
        .hint("The file must hold PEM, a private key unencrypted: openssl pkey -in client.key -out plain.key")
}
