//! Where a list or a watch goes on: tokens that callers keep and bring back.
//!
//! They hold nothing secret and grant nothing: who changes one gets another place of what they may
//! see anyway. They are bound to what was asked for, so that a page of one list is not taken for a
//! page of another.

use std::fmt;

/// Longest token taken, in bytes: the longest name of a namespace, a pod, a cluster and a node fit.
const MAX_LENGTH: usize = 640;

/// What was asked for, in short (FNV-1a, 64 bits).
pub fn scope(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // 0xff is in no UTF-8 text.
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The end of a page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// Of which list.
    pub scope: u64,
    /// Namespace of the last object on the page; empty for objects without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A place in a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Of which watch.
    pub scope: u64,
    /// Of which history: places of one say nothing in another.
    pub history: u64,
    /// Number of the next step of that history.
    pub next: u64,
    /// Everything up to this version has been told, in whatever history.
    pub version: u64,
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p1.{:016x}.{}/{}", self.scope, self.namespace, self.name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r1.{:016x}.{:016x}.", self.scope, self.history)?;
        write!(f, "{}.{}", self.next, self.version)
    }
}

impl Page {
    /// Reads a token; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (scope, rest) = head(text, "p1.")?;
        let (namespace, name) = rest.split_once('/')?;
        let fine = |part: &str| {
            part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        let page = Self { scope, namespace: namespace.to_owned(), name: name.to_owned() };
        (fine(namespace) && fine(name) && !name.is_empty()).then_some(page)
    }
}

impl Place {
    /// Reads a token; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (scope, rest) = head(text, "r1.")?;
        let (history, rest) = rest.split_once('.')?;
        let (next, version) = rest.split_once('.')?;
        let (next, version) = (decimal(next)?, decimal(version)?);
        Some(Self { scope, history: hex(history)?, next, version })
    }
}

fn head<'a>(text: &'a str, kind: &str) -> Option<(u64, &'a str)> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let (scope, rest) = text.strip_prefix(kind)?.split_once('.')?;
    Some((hex(scope)?, rest))
}

fn hex(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (text.len() == 16 && digits).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// A number in the one form it is written in.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_questions_have_other_scopes() {
        assert_ne!(scope(&["ab", "c"]), scope(&["a", "bc"]));
        assert_ne!(scope(&["a"]), scope(&["a", ""]));
        assert_eq!(scope(&["a", "b"]), scope(&["a", "b"]));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in [
            "",
            "p1.",
            "p1.0.a/b",
            "p1.000000000000000G.a/b",
            "p1.0000000000000000.a",
            "p1.0000000000000000.a/",
            "p1.0000000000000000.a/B",
            "r1.0000000000000000.a/b",
        ] {
            assert_eq!(Page::parse(text), None, "{text}");
        }
        for text in [
            "r1.0000000000000000.0000000000000000.1.",
            "r1.0000000000000000.0000000000000000.1",
            "r1.0000000000000000.0000000000000000.01.1",
            "r1.0000000000000000.0000000000000000.1.+1",
            "r1.0000000000000000.0000000000000000.1.99999999999999999999",
            "p1.0000000000000000.0000000000000000.1",
        ] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn tokens_come_back(scope: u64, history: u64, next: u64, version: u64, ns in "[a-z0-9-]{0,20}", name in "[a-z][a-z0-9.-]{0,60}") {
            let page = Page { scope, namespace: ns, name };
            prop_assert_eq!(Page::parse(&page.to_string()), Some(page));
            let place = Place { scope, history, next, version };
            prop_assert_eq!(Place::parse(&place.to_string()), Some(place));
        }

        #[test]
        fn a_token_has_one_form(text in "[pr]1\\.[0-9a-f.]{0,40}[a-z/.0-9-]{0,20}") {
            if let Some(page) = Page::parse(&text) {
                prop_assert_eq!(page.to_string(), text.clone());
            }
            if let Some(place) = Place::parse(&text) {
                prop_assert_eq!(place.to_string(), text);
            }
        }
    }
}
