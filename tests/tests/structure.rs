//! The rules of ARCHITECTURE.md that the manifests must keep: who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Our packages with their direct dependencies (dev-dependencies left out).
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let direct = dependencies.filter(|d| d["kind"] != "dev").map(|d| text(&d["name"]));
            (text(&package["name"]), direct.collect())
        })
        .collect()
}

const COMPONENTS: [&str; 6] = [
    "slicewire-controller",
    "slicewire-netop-daemon",
    "slicewire-gateway",
    "slicewire-router-sidecar",
    "slicewire-nsm-injector",
    "slicewire-slicectl",
];

#[test]
fn no_component_depends_on_another() {
    for (package, direct) in dependencies() {
        for component in COMPONENTS {
            assert!(
                !direct.contains(component) || package.contains("-tests"),
                "{package} depends on the component {component}"
            );
        }
    }
}

#[test]
fn the_core_knows_nobody() {
    let core = &dependencies()["slicewire-core"];
    let allowed: BTreeSet<String> =
        ["ipnet", "serde", "thiserror"].iter().map(|s| (*s).to_owned()).collect();
    assert!(core.is_subset(&allowed), "the core may use {allowed:?}, it uses {core:?}");
}

#[test]
fn only_the_kernel_crate_speaks_to_the_kernel() {
    for (package, direct) in dependencies() {
        for crate_name in ["rtnetlink", "netlink-packet-route", "nftables", "wireguard-control"] {
            assert!(
                !direct.contains(crate_name) || package == "slicewire-kernel",
                "{package} uses {crate_name}; only slicewire-kernel may"
            );
        }
    }
}

#[test]
fn the_sidecar_has_no_kubernetes_client() {
    let direct = &dependencies()["slicewire-router-sidecar"];
    for crate_name in ["kube", "k8s-openapi", "slicewire-api"] {
        assert!(!direct.contains(crate_name), "router-sidecar depends on {crate_name}");
    }
}
