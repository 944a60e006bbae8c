//! The network-status annotation: a list of the pod's NICs, ours among others'.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::plan::{NicWant, pod_mac};

/// Begins the names of our entries.
const OURS: &str = "slicewire.dev/";

/// The annotation with our entries replaced by those of `nics`; `None` where nothing is left, and
/// there was nothing or only ours before.
///
/// An annotation that is not a JSON list is somebody's mistake or secret: it is left as it is.
pub(super) fn merge(existing: Option<&str>, nics: &[Arc<NicWant>]) -> Option<String> {
    let mut entries: Vec<Value> = match existing.map(str::trim).filter(|e| !e.is_empty()) {
        None => Vec::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Array(entries)) => entries,
            _ => return existing.map(str::to_owned),
        },
    };
    let before = entries.clone();
    entries.retain(|e| !is_ours(e));
    entries.extend(nics.iter().map(|n| entry(n)));
    if entries == before {
        return existing.map(str::to_owned);
    }
    (!entries.is_empty()).then(|| Value::Array(entries).to_string())
}

fn is_ours(entry: &Value) -> bool {
    entry.get("name").and_then(Value::as_str).is_some_and(|n| n.starts_with(OURS))
}

fn entry(nic: &NicWant) -> Value {
    let ips: Vec<String> = nic.port.addresses.iter().map(ToString::to_string).collect();
    let mut entry = Map::new();
    entry.insert("name".into(), json!(format!("{OURS}{}", nic.slice)));
    entry.insert("interface".into(), json!(nic.nic));
    entry.insert("ips".into(), json!(ips));
    entry.insert("mac".into(), json!(pod_mac(&nic.port.device).to_string()));
    entry.insert("mtu".into(), json!(nic.mtu));
    entry.insert("default".into(), json!(false));
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::PortWant;

    fn nic() -> Arc<NicWant> {
        Arc::new(NicWant {
            slice: "blue".into(),
            uid: "u1".into(),
            pod: ("shop".into(), "web".into()),
            netns: "/run/netns/cni-1".into(),
            nic: "slice0".into(),
            port: PortWant {
                device: "swp0123456789ab".into(),
                addresses: BTreeSet::from(["10.77.3.5".parse().unwrap()]),
            },
            prefixes: vec![],
            mtu: 1380,
            gateway: false,
        })
    }

    #[test]
    fn entries_of_others_are_kept_and_ours_come_and_go() {
        let foreign = r#"[{"name":"cbr0","interface":"eth0","default":true}]"#;
        let with = merge(Some(foreign), &[nic()]).unwrap();
        let list: Value = serde_json::from_str(&with).unwrap();
        assert_eq!(list[0]["name"], "cbr0");
        assert_eq!(list[1]["name"], "slicewire.dev/blue");
        assert_eq!(list[1]["ips"][0], "10.77.3.5");
        assert_eq!(list[1]["mac"], "02:23:45:67:89:ab");
        assert_eq!(merge(Some(&with), &[nic()]), Some(with.clone()), "nothing to write");
        let left: Value = serde_json::from_str(&merge(Some(&with), &[]).unwrap()).unwrap();
        assert_eq!(left, serde_json::from_str::<Value>(foreign).unwrap());
    }

    #[test]
    fn an_annotation_that_was_only_ours_goes_with_the_nic() {
        let ours = merge(None, &[nic()]).unwrap();
        assert_eq!(merge(Some(&ours), &[]), None);
        assert_eq!(merge(None, &[]), None);
    }

    #[test]
    fn what_is_not_a_list_is_left_alone() {
        assert_eq!(merge(Some("hello"), &[nic()]).as_deref(), Some("hello"));
    }
}
