//! Field masks: which fields an update writes.

use serde_json::{Map, Value};
use slicewire_core::violation::Violation;

use crate::shape::resolve;

/// Where an update may write.
const WRITABLE: [&str; 3] = ["spec", "metadata.labels", "metadata.annotations"];
/// Most paths.
const MAX_PATHS: usize = 64;

/// Paths in JSON that an update writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mask(Vec<Vec<String>>);

impl Mask {
    /// Reads a mask over `message`; none at all means the whole spec.
    ///
    /// # Errors
    /// Every path that leads nowhere, through a list, or to what only the hub writes.
    pub(crate) fn parse(message: &str, paths: &[String]) -> Result<Self, Vec<Violation>> {
        if paths.is_empty() {
            return Ok(Self(vec![vec!["spec".to_owned()]]));
        }
        if paths.len() > MAX_PATHS {
            let message = format!("has {} paths; at most {MAX_PATHS} are taken", paths.len());
            return Err(vec![Violation::new("update_mask", "", "Mask", message)]);
        }
        let (mut found, mut faults) = (Vec::new(), Vec::new());
        for (i, path) in paths.iter().enumerate() {
            match one(message, path) {
                Ok(path) => found.push(path),
                Err(why) => {
                    let field = format!("update_mask.paths[{i}]");
                    faults.push(Violation::new(field, path, "Mask", why));
                }
            }
        }
        if faults.is_empty() { Ok(Self(found)) } else { Err(faults) }
    }

    /// Writes what `from` holds at the masked paths into `into`; what it does not hold is removed
    /// there.
    pub(crate) fn write(&self, from: &Map<String, Value>, into: &mut Map<String, Value>) {
        for path in &self.0 {
            let value = path.split_first().and_then(|(first, rest)| {
                rest.iter().try_fold(from.get(first)?, |at, name| at.get(name))
            });
            put(into, path, value);
        }
    }
}

fn one(message: &str, path: &str) -> Result<Vec<String>, String> {
    let inside = |root: &str| path == root || path.starts_with(&format!("{root}."));
    if !WRITABLE.iter().any(|root| inside(root)) {
        return Err(format!("cannot be written; {} can", WRITABLE.join(", ")));
    }
    let segments: Vec<String> = path.split('.').map(str::to_owned).collect();
    let resolved = resolve(message, &segments)?;
    if resolved.through_list {
        return Err("passes a list; lists are written as a whole".to_owned());
    }
    Ok(resolved.json)
}

fn put(into: &mut Map<String, Value>, path: &[String], value: Option<&Value>) {
    match (path, value) {
        ([last], Some(value)) => {
            into.insert(last.clone(), value.clone());
        }
        ([last], None) => {
            into.remove(last);
        }
        ([first, rest @ ..], value) => {
            if value.is_none() && !into.contains_key(first) {
                return;
            }
            let inner = into.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Some(inner) = inner.as_object_mut() {
                put(inner, rest, value);
            }
        }
        ([], _) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SLICE: &str = "slicewire.hub.v1alpha1.Slice";

    fn mask(paths: &[&str]) -> Result<Mask, Vec<Violation>> {
        Mask::parse(SLICE, &paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn only_masked_fields_are_written() {
        let mut now = map(json!({
            "metadata": {"name": "blue", "labels": {"a": "1", "b": "2"}},
            "spec": {"prefixes": ["10.0.0.0/8"], "mtu": 1400, "gateways": {"replicas": 2}},
            "status": {"attachedPods": 3},
        }));
        let new = map(json!({
            "metadata": {"name": "red", "labels": {"a": "9"}},
            "spec": {"prefixes": ["10.0.0.0/8", "fd00::/48"], "gateways": {}},
            "status": {"attachedPods": 0},
        }));
        mask(&["spec.prefixes", "spec.mtu", "metadata.labels.b"]).unwrap().write(&new, &mut now);
        assert_eq!(
            Value::Object(now),
            json!({
                "metadata": {"name": "blue", "labels": {"a": "1"}},
                "spec": {"prefixes": ["10.0.0.0/8", "fd00::/48"], "gateways": {"replicas": 2}},
                "status": {"attachedPods": 3},
            })
        );
    }

    #[test]
    fn fields_on_the_way_are_made() {
        let (mut now, new) = (Map::new(), map(json!({"spec": {"gateways": {"replicas": 3}}})));
        mask(&["spec.gateways.replicas"]).unwrap().write(&new, &mut now);
        assert_eq!(now, new);
        mask(&["spec.gateways.replicas"]).unwrap().write(&Map::new(), &mut now);
        assert_eq!(Value::Object(now), json!({"spec": {"gateways": {}}}));
    }

    #[test]
    fn every_fault_is_told() {
        let paths = [
            "status.tunnels",
            "spec.nonsense",
            "spec.clusters.name",
            "metadata.name",
            "",
            "spec.mtu",
        ];
        let faults = mask(&paths).unwrap_err();
        let fields: Vec<&str> = faults.iter().map(|f| f.field.as_str()).collect();
        let expected: Vec<String> = (0..5).map(|i| format!("update_mask.paths[{i}]")).collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn no_mask_is_the_whole_spec() {
        let mut now = map(json!({"metadata": {"labels": {"a": "1"}}, "spec": {"mtu": 1400}}));
        let new = map(json!({"metadata": {}, "spec": {"prefixes": []}}));
        mask(&[]).unwrap().write(&new, &mut now);
        let expected = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"prefixes": []}});
        assert_eq!(Value::Object(now), expected);
    }

    proptest! {
        #[test]
        fn writing_twice_is_writing_once_and_nothing_else_changes(
            paths in prop::sample::subsequence(vec!["spec.prefixes", "spec.mtu", "spec.gateways", "spec.gateways.replicas", "metadata.labels"], 1..5),
            old: [bool; 4], new: [bool; 4],
        ) {
            let object = |has: [bool; 4], n: i32| {
                let mut o = map(json!({"metadata": {"name": n}, "spec": {"keep": n}}));
                if has[0] { o["spec"]["prefixes"] = json!([n]); }
                if has[1] { o["spec"]["mtu"] = json!(n); }
                if has[2] { o["spec"]["gateways"] = json!({"replicas": n}); }
                if has[3] { o["metadata"]["labels"] = json!({"l": n}); }
                o
            };
            let (mut now, new) = (object(old, 1), object(new, 2));
            let mask = mask(&paths).unwrap();
            mask.write(&new, &mut now);
            let once = now.clone();
            mask.write(&new, &mut now);
            prop_assert_eq!(&now, &once);
            prop_assert_eq!(&now["spec"]["keep"], &json!(1));
            prop_assert_eq!(&now["metadata"]["name"], &json!(1));
            if !paths.contains(&"spec.mtu") {
                prop_assert_eq!(now["spec"].get("mtu").is_some(), old[1]);
            }
        }
    }
}
