//! Proving who we are: passwords and SCRAM, bound to the TLS channel where that is possible.

use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use rowcast_engine::{Error, Result};

use super::db_error::DbError;
use super::der::Certificate;
use super::login::Attempt;
use super::messages::{Incoming, Messages};
use super::remedy;
use crate::conninfo::ChannelBinding;

/// Answers the server's challenge until it says that the login is good.
///
/// # Errors
///
/// `Kind::Refused` for a wrong or missing password and for methods that are not supported or not safe.
pub(super) async fn authenticate(messages: &mut Messages, at: &Attempt<'_>) -> Result<()> {
    let challenge = next(messages, at).await?;
    if !matches!(challenge, Message::AuthenticationSasl(_)) {
        refuse_unbound(at)?;
    }
    match challenge {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            if !messages.socket.is_private() {
                return Err(Error::refused(format!(
                    "Postgres at {} asks for the password in clear text over a connection without TLS",
                    at.host
                ))
                .hint("Use sslmode=require, or scram-sha-256 instead of password in pg_hba.conf"));
            }
            let password = at.password()?;
            send(messages, at, |buffer| frontend::password_message(password.as_bytes(), buffer)).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(at.info.user.as_bytes(), at.password()?.as_bytes(), body.salt());
            send(messages, at, |buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
        }
        Message::AuthenticationSasl(body) => scram(messages, at, &body).await?,
        Message::AuthenticationGss
        | Message::AuthenticationSspi
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential => return Err(unsupported(at, "Kerberos, GSSAPI or SSPI")),
        _ => {
            return Err(remedy::protocol(
                "an unexpected message came in place of the authentication request",
            ));
        }
    }
    match next(messages, at).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(remedy::protocol("an unexpected message came after the password")),
    }
}

async fn scram(messages: &mut Messages, at: &Attempt<'_>, offer: &AuthenticationSaslBody) -> Result<()> {
    let offered: Vec<&str> = offer.mechanisms().collect().map_err(|e| remedy::broken(at.host, e))?;
    let (binding, mechanism) = mechanism(messages, at, &offered)?;
    let password = at.password()?;
    let mut scram = ScramSha256::new(password.as_bytes(), binding);
    send(messages, at, |buffer| frontend::sasl_initial_response(mechanism, scram.message(), buffer)).await?;
    let Message::AuthenticationSaslContinue(body) = next(messages, at).await? else {
        return Err(remedy::protocol("an unexpected message came during SCRAM"));
    };
    scram.update(body.data()).map_err(|e| not_proven(at, e))?;
    send(messages, at, |buffer| frontend::sasl_response(scram.message(), buffer)).await?;
    let Message::AuthenticationSaslFinal(body) = next(messages, at).await? else {
        return Err(remedy::protocol("an unexpected message came during SCRAM"));
    };
    scram.finish(body.data()).map_err(|e| not_proven(at, e))
}

/// Chooses the SCRAM variant by what the server offers, the certificate allows and `channel_binding` asks.
fn mechanism(
    messages: &Messages,
    at: &Attempt<'_>,
    offered: &[&str],
) -> Result<(sasl::ChannelBinding, &'static str)> {
    let asked = at.info.channel_binding;
    let end_point = messages
        .socket
        .server_certificate()
        .filter(|_| asked != ChannelBinding::Disable)
        .and_then(|certificate| Certificate::parse(certificate)?.end_point());
    match end_point {
        Some(hash) if offered.contains(&SCRAM_SHA_256_PLUS) => {
            return Ok((sasl::ChannelBinding::tls_server_end_point(hash), SCRAM_SHA_256_PLUS));
        }
        // Tells the server that we could: it fails the login if somebody removed its offer on the way.
        Some(_) if offered.contains(&SCRAM_SHA_256) => {
            refuse_unbound(at)?;
            return Ok((sasl::ChannelBinding::unrequested(), SCRAM_SHA_256));
        }
        _ => refuse_unbound(at)?,
    }
    if offered.contains(&SCRAM_SHA_256) {
        return Ok((sasl::ChannelBinding::unsupported(), SCRAM_SHA_256));
    }
    Err(unsupported(at, &offered.join(", ")))
}

/// Fails where `channel_binding=require` and the login would go on without.
fn refuse_unbound(at: &Attempt<'_>) -> Result<()> {
    if at.info.channel_binding != ChannelBinding::Require {
        return Ok(());
    }
    Err(Error::refused(format!(
        "Postgres at {} does not bind the login to the TLS channel, which channel_binding=require asks for",
        at.host
    ))
    .hint("It takes TLS, scram-sha-256 in pg_hba.conf and a password stored as SCRAM; or use channel_binding=prefer"))
}

fn unsupported(at: &Attempt<'_>, method: &str) -> Error {
    Error::refused(format!(
        "Postgres at {} asks for {method} authentication, which is not supported",
        at.host
    ))
    .hint("Give this user a line with scram-sha-256 or cert in pg_hba.conf")
}

fn not_proven(at: &Attempt<'_>, cause: io::Error) -> Error {
    Error::refused(format!("Postgres at {} did not prove that it knows the password's hash", at.host))
        .because(cause)
        .hint("Somebody may be posing as the server: check the address, and use sslmode=verify-full")
}

/// The next message that is not a notice; an error of the server becomes the login's error.
async fn next(messages: &mut Messages, at: &Attempt<'_>) -> Result<Message> {
    loop {
        match messages.read().await.map_err(|e| remedy::broken(at.host, e))? {
            Incoming::Message(Message::ErrorResponse(body)) => return Err(at.refused(body.fields())),
            Incoming::Message(Message::NoticeResponse(body)) => DbError::read(body.fields()).log(),
            Incoming::Message(message) => return Ok(message),
            Incoming::CopyBoth => return Err(remedy::protocol("replication began before the login")),
        }
    }
}

async fn send(
    messages: &mut Messages,
    at: &Attempt<'_>,
    write: impl FnOnce(&mut bytes::BytesMut) -> io::Result<()>,
) -> Result<()> {
    messages.send(write).await.map_err(|e| remedy::broken(at.host, e))
}
