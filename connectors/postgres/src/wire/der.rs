//! The few fields of an X.509 certificate that the TLS library does not hand out.
//! Source: RFC 5280, section 4.1.

use ring::digest::{self, Algorithm};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const EXPLICIT_VERSION: u8 = 0xA0;

/// 2.5.4.3, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// 1.2.840.113549.1.1, the RSA signature algorithms; one more byte says which.
const PKCS1: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];

/// 1.2.840.10045.4, the ECDSA signature algorithms; the rest says which.
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];

/// Views into one certificate.
pub(super) struct Certificate<'a> {
    whole: &'a [u8],
    signature_algorithm: &'a [u8],
    subject: &'a [u8],
    /// The SubjectPublicKeyInfo, with its header.
    pub(super) public_key: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Finds the fields; None for what is not a certificate.
    pub(super) fn parse(whole: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(Reader(whole).expect(SEQUENCE)?);
        let mut signed = Reader(outer.expect(SEQUENCE)?);
        let signature_algorithm = Reader(outer.expect(SEQUENCE)?).expect(OID)?;
        if signed.0.first() == Some(&EXPLICIT_VERSION) {
            signed.next()?;
        }
        // Serial number, signature algorithm, issuer, validity.
        for _ in 0..4 {
            signed.next()?;
        }
        let subject = signed.expect(SEQUENCE)?;
        let before = signed.0;
        signed.expect(SEQUENCE)?;
        let public_key = &before[..before.len() - signed.0.len()];
        Some(Self { whole, signature_algorithm, subject, public_key })
    }

    /// The last common name of the subject.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        let (mut names, mut found) = (Reader(self.subject), None);
        while let Some((SET, set)) = names.next() {
            let mut pair = Reader(Reader(set).expect(SEQUENCE)?);
            if pair.expect(OID)? == COMMON_NAME {
                found = std::str::from_utf8(pair.next()?.1).ok();
            }
        }
        found
    }

    /// The channel binding `tls-server-end-point` (RFC 5929): the certificate hashed with the hash of its
    /// own signature, or SHA-256 in place of MD5 and SHA-1. None where the signature has no single hash.
    pub(super) fn end_point(&self) -> Option<Vec<u8>> {
        let algorithm = self.signature_hash()?;
        Some(digest::digest(algorithm, self.whole).as_ref().to_vec())
    }

    fn signature_hash(&self) -> Option<&'static Algorithm> {
        if let Some(rsa) = self.signature_algorithm.strip_prefix(PKCS1) {
            return match rsa {
                [4 | 5 | 11] => Some(&digest::SHA256),
                [12] => Some(&digest::SHA384),
                [13] => Some(&digest::SHA512),
                _ => None,
            };
        }
        match self.signature_algorithm.strip_prefix(ECDSA)? {
            [1] | [3, 2] => Some(&digest::SHA256),
            [3, 3] => Some(&digest::SHA384),
            [3, 4] => Some(&digest::SHA512),
            _ => None,
        }
    }
}

/// Reads DER elements one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Tag and content of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(*first), rest),
            // Four bytes of length are more than any certificate has.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                (bytes.iter().fold(0, |length, b| length << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(found) = Certificate::parse(&bytes) {
                let _ = (found.common_name(), found.end_point());
            }
        }
    }

    #[test]
    fn rejects_a_length_beyond_the_end() {
        assert!(Certificate::parse(&[SEQUENCE, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0]).is_none());
        assert!(Certificate::parse(&[]).is_none());
    }
}
