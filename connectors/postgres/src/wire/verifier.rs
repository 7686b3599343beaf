//! What is checked of the server's certificate: everything, all but the name, or nothing.
//!
//! The chain is checked by rustls. Two habits of libpq's users are honoured on top: a self-signed server
//! certificate that is itself the trusted file, and a certificate without alternative names, whose common
//! name is then the host's.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::der::Certificate;
use crate::conninfo::Verify;

/// A verifier for one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    /// None checks nothing but that the server holds the key of the certificate it shows.
    chain: Option<Chain>,
}

#[derive(Debug)]
struct Chain {
    verifier: Arc<WebPkiServerVerifier>,
    /// The trusted certificates as given, to recognise a server certificate among them.
    trusted: Vec<CertificateDer<'static>>,
    check_name: bool,
    asks_what_was_revoked: bool,
}

impl Verifier {
    /// `trusted` is what the chain must end in; unused when nothing is checked. With `revoked`, each authority of the
    /// chain must have its list there.
    ///
    /// # Errors
    ///
    /// When no usable certificate is among `trusted`.
    pub(super) fn new(
        provider: Arc<CryptoProvider>,
        verify: Verify,
        trusted: Vec<CertificateDer<'static>>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Self, rustls::Error> {
        if verify == Verify::Nothing {
            return Ok(Self { provider, chain: None });
        }
        let mut roots = RootCertStore::empty();
        // Trust stores hold a few certificates of odd forms; one that matters is missed in the handshake.
        roots.add_parsable_certificates(trusted.iter().cloned());
        let asks_what_was_revoked = !revoked.is_empty();
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        if asks_what_was_revoked {
            // A list that has run out proves nothing.
            builder = builder.with_crls(revoked).enforce_revocation_expiration();
        }
        let verifier = builder.build().map_err(|e| rustls::Error::General(e.to_string()))?;
        let check_name = verify == Verify::ChainAndName;
        Ok(Self { provider, chain: Some(Chain { verifier, trusted, check_name, asks_what_was_revoked }) })
    }
}

impl Chain {
    fn accepts(&self, error: &rustls::Error, cert: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
        let rustls::Error::InvalidCertificate(error) = error else { return false };
        match error {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                !self.check_name || common_name_is(error, cert, name)
            }
            // webpki's order of checks puts the validity period before this one.
            CertificateError::Other(other) if is_ca_as_end_entity(other) => {
                // It is found before the lists are looked at.
                let pinned = !self.asks_what_was_revoked && self.trusted.iter().any(|t| t == cert);
                pinned && (!self.check_name || is_named(cert, name))
            }
            _ => false,
        }
    }
}

/// webpki's complaint about a certificate that may sign others (which `openssl req -x509` makes).
fn is_ca_as_end_entity(error: &rustls::OtherError) -> bool {
    matches!(error.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn is_named(cert: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Ok(parsed) = rustls::server::ParsedCertificate::try_from(cert) else { return false };
    match rustls::client::verify_server_name(&parsed, name) {
        Ok(()) => true,
        Err(rustls::Error::InvalidCertificate(error)) => common_name_is(&error, cert, name),
        Err(_) => false,
    }
}

/// Like libpq, looks at the common name only where the certificate has no alternative names at all.
fn common_name_is(error: &CertificateError, cert: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let has_names = match error {
        CertificateError::NotValidForNameContext { presented, .. } => !presented.is_empty(),
        _ => true,
    };
    let common = Certificate::parse(cert).and_then(|c| c.common_name());
    !has_names && common.is_some_and(|common| common.eq_ignore_ascii_case(&name.to_str()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(error) if chain.accepts(&error, end_entity, name) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    /// With the key alone, so that old version-1 certificates work where only their key matters.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let parsed = Certificate::parse(cert)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key);
        verify_tls13_signature_with_raw_key(
            message,
            &key,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
