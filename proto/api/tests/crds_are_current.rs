//! `deploy/crds` is what the types say, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn the_committed_crds_are_generated_from_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    let mut committed = BTreeMap::new();
    for role in ["hub", "worker"] {
        for file in fs::read_dir(dir.join(role)).unwrap() {
            let path = file.unwrap().path();
            let name = format!("{role}/{}", path.file_name().unwrap().to_str().unwrap());
            committed.insert(name, fs::read_to_string(path).unwrap());
        }
    }
    let generated: BTreeMap<String, String> = slicewire_api::crds()
        .into_iter()
        .map(|(role, crd)| {
            let name = format!("{role}/{}.yaml", crd.spec.names.plural);
            (name, serde_yaml_ng::to_string(&crd).unwrap())
        })
        .collect();
    let names = |set: &BTreeMap<String, String>| set.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&committed),
        names(&generated),
        "run: cargo run -p slicewire-api --bin crdgen"
    );
    for (name, yaml) in &generated {
        assert!(
            committed[name] == *yaml,
            "{name} is old; run: cargo run -p slicewire-api --bin crdgen"
        );
    }
}

#[test]
fn every_field_is_explained() {
    for (_, crd) in slicewire_api::crds() {
        let value = serde_json::to_value(&crd).unwrap();
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            let mut bare = Vec::new();
            undocumented(part, &schema["properties"][part], &mut bare);
            assert!(bare.is_empty(), "{}: no description at {bare:?}", crd.spec.names.kind);
        }
    }
}

fn undocumented(at: &str, schema: &serde_json::Value, bare: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        if field["description"].as_str().is_none_or(str::is_empty) {
            bare.push(at.clone());
        }
        undocumented(&at, field, bare);
        undocumented(&format!("{at}[]"), &field["items"], bare);
    }
}
