//! Whether a message in the log was written by rowcast's own functions.
//!
//! Every role may write a message of any name. Those that make rowcast do something begin with 64 hexadecimal digits:
//! HMAC-SHA-256, with the key in `rowcast.secret`, over transaction, name and content (`migrations/V4__signed.sql`). So
//! none can be made up, given another name, or repeated in another transaction.

use std::fmt;

use ring::hmac;

/// Hexadecimal digits of a signature.
const DIGITS: usize = 64;

/// Checks signatures; without a key there is none that is right.
#[derive(Clone, Default)]
pub(crate) struct Proof(Option<hmac::Key>);

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Proof(a key)" } else { "Proof(none)" })
    }
}

impl Proof {
    /// With the key of the database, where there is one that may be read.
    pub(crate) fn new(key: Option<&[u8]>) -> Self {
        Self(key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// What a message says behind its signature; else why it is not believed.
    pub(super) fn open<'a>(
        &self,
        xid: u32,
        prefix: &str,
        content: &'a [u8],
    ) -> Result<&'a [u8], &'static str> {
        let Some(key) = &self.0 else {
            return Err("there is no key in rowcast.secret that rowcast may read, so nothing is signed");
        };
        let signed = content.split_at_checked(DIGITS).and_then(|(digits, said)| Some((bytes(digits)?, said)));
        let Some((signature, said)) = signed else { return Err("it is not signed") };
        let whole = [format!("{xid} {prefix}\0").as_bytes(), said].concat();
        match hmac::verify(key, &whole, &signature) {
            Ok(()) => Ok(said),
            Err(_) => Err("its signature is not that of the key in rowcast.secret"),
        }
    }
}

fn bytes(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
pub(super) fn signed(proof: &Proof, xid: u32, prefix: &str, said: &[u8]) -> Vec<u8> {
    let whole = [format!("{xid} {prefix}\0").as_bytes(), said].concat();
    let signature = hmac::sign(proof.0.as_ref().unwrap(), &whole);
    let digits: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    [digits.as_bytes(), said].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_for_this_transaction_and_name() {
        let proof = Proof::new(Some(&[7; 64]));
        let content = signed(&proof, 9, "rowcast.snapshot", b"{}");
        assert_eq!(proof.open(9, "rowcast.snapshot", &content), Ok(&b"{}"[..]));
        let other = Proof::new(Some(&[8; 64]));
        let mut changed = content.clone();
        changed.push(b' ');
        let refused = [
            proof.open(10, "rowcast.snapshot", &content),
            proof.open(9, "rowcast.snapshot.s", &content),
            proof.open(9, "rowcast.snapshot", &changed),
            other.open(9, "rowcast.snapshot", &content),
        ];
        for refused in refused {
            assert_eq!(refused, Err("its signature is not that of the key in rowcast.secret"));
        }
        assert_eq!(proof.open(9, "p", b"{}"), Err("it is not signed"));
        assert_eq!(proof.open(9, "p", &[b'x'; 70]), Err("it is not signed"));
        assert!(Proof::default().open(9, "rowcast.snapshot", &content).is_err());
        assert_eq!(format!("{proof:?}"), "Proof(a key)");
    }
}
