//! Rules that Kubernetes has for labels and names.

use std::collections::BTreeSet;

use crate::name::{ClusterName, check, check_label};
use crate::selector::{MAX_LABEL, is_label_text, is_label_value};
use crate::violation::Violation;

/// Longest DNS name: the prefix of a label's key, a service account's name.
const MAX_DNS: usize = 253;
/// Longest name of a port (RFC 6335, section 5.1).
const MAX_PORT_NAME: usize = 15;

fn is_dns_name(text: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(|b| lower(*b)))
            && bytes.iter().all(|b| lower(*b) || *b == b'-')
    };
    text.len() <= MAX_DNS && text.split('.').all(part)
}

/// A label's key: `name` or `dns.prefix/name`.
pub(super) fn label_key(field: &str, key: &str, faults: &mut Vec<Violation>) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !is_label_text(name) {
        faults.push(Violation::new(
            field,
            key,
            "LabelKey",
            format!("is no label key: 1 to {MAX_LABEL} letters, digits, '-', '_' and '.', with a letter or digit at both ends, after an optional prefix and '/'"),
        ));
    }
    if prefix.is_some_and(|prefix| !is_dns_name(prefix)) {
        let help = format!("has a prefix that is no DNS name of at most {MAX_DNS} bytes");
        faults.push(Violation::new(field, key, "LabelKey", help));
    }
}

/// A label's value; it may be empty.
pub(super) fn label_value(field: &str, value: &str, faults: &mut Vec<Violation>) {
    if !is_label_value(value) {
        faults.push(Violation::new(
            field,
            value,
            "LabelValue",
            format!("is no label value: at most {MAX_LABEL} letters, digits, '-', '_' and '.', with a letter or digit at both ends"),
        ));
    }
}

/// A port's name.
pub(super) fn port_name(field: &str, name: &str, faults: &mut Vec<Violation>) {
    let letter = name.bytes().any(|b| b.is_ascii_lowercase());
    let broken = check(field, name, MAX_PORT_NAME);
    if !broken.is_empty() || !letter {
        let help = format!(
            "is no port name: 1 to {MAX_PORT_NAME} lower-case letters, digits and single '-', at least one letter, a letter or digit at both ends"
        );
        faults.push(Violation::new(field, name, "PortName", help));
    }
}

/// Namespaces' names.
pub(super) fn names(field: &str, all: &[String], faults: &mut Vec<Violation>) {
    for (i, name) in all.iter().enumerate() {
        let field = if all.len() == 1 { field.to_owned() } else { format!("{field}[{i}]") };
        faults.extend(check_label(&field, name, MAX_LABEL));
    }
}

/// Service accounts' names.
pub(super) fn service_accounts(field: &str, all: &[String], faults: &mut Vec<Violation>) {
    for (i, name) in all.iter().enumerate().filter(|(_, name)| !is_dns_name(name)) {
        let help = format!("is no service account's name: a DNS name of at most {MAX_DNS} bytes");
        faults.push(Violation::new(format!("{field}[{i}]"), name, "ServiceAccount", help));
    }
}

/// Clusters of the slice.
pub(super) fn known_clusters(
    field: &str,
    all: &[String],
    known: &BTreeSet<ClusterName>,
    faults: &mut Vec<Violation>,
) -> BTreeSet<ClusterName> {
    let mut good = BTreeSet::new();
    for (i, name) in all.iter().enumerate() {
        match known.iter().find(|cluster| cluster.as_str() == name) {
            Some(cluster) => {
                good.insert(cluster.clone());
            }
            None => {
                let are: Vec<&str> = known.iter().map(ClusterName::as_str).collect();
                let help = format!("is not a cluster of this slice; {} are", are.join(", "));
                let field = format!("{field}[{i}]");
                faults.push(Violation::new(field, name, "UnknownCluster", help));
            }
        }
    }
    good
}
