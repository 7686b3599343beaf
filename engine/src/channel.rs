//! Names of custom channels.

/// More than two identifiers of Postgres. In bytes.
pub const NAME_MAX: usize = 200;

/// Ours: `rowcast.rejected`, and what may come.
const OWN_PREFIX: &str = "rowcast.";

/// Says why a name cannot be that of a custom channel: it has to be addressable by exact name, readable in a URL,
/// and a topic of Kafka. `rowcast.publish` in SQL has the same rule.
pub fn check_custom(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("A channel must not be empty");
    }
    if name.len() > NAME_MAX {
        return Err("A channel's name has at most 200 bytes");
    }
    let plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    if !name.split('.').all(plain) {
        return Err("A channel's name is made of letters, digits, _ and -, in parts with a dot between");
    }
    if name == "rowcast" || name.starts_with(OWN_PREFIX) {
        return Err("Channels that begin with rowcast. are rowcast's own");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_custom;

    #[test]
    fn names_are_plain() {
        for good in ["orders.shipped", "a", "A-1_b.c"] {
            assert_eq!(check_custom(good), Ok(()), "{good}");
        }
        for bad in
            ["", "*", "a.*", "a..b", ".", "Bad Name", "a\nb", "ü", "rowcast", "rowcast.x", &"x".repeat(201)]
        {
            assert!(check_custom(bad).is_err(), "{bad}");
        }
    }
}
