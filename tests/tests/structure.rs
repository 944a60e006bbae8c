//! The rules of ARCHITECTURE.md that the manifests must keep: who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Result, ensure};
use serde::Deserialize;

/// Our packages with their direct dependencies (dev-dependencies left out).
fn dependencies() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let direct = |package: Package| {
        let dependencies = package.dependencies.into_iter();
        let direct = dependencies.filter(|d| d.kind.as_deref() != Some("dev")).map(|d| d.name);
        (package.name, direct.collect())
    };
    Ok(metadata.packages.into_iter().map(direct).collect())
}

/// What is read of cargo's answer.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
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
fn no_component_depends_on_another() -> Result<()> {
    for (package, direct) in dependencies()? {
        for component in COMPONENTS {
            assert!(
                !direct.contains(component) || package.contains("-tests"),
                "{package} depends on the component {component}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_core_knows_nobody() -> Result<()> {
    let core = &dependencies()?["slicewire-core"];
    let allowed: BTreeSet<String> =
        ["ipnet", "serde", "thiserror"].iter().map(|s| (*s).to_owned()).collect();
    assert!(core.is_subset(&allowed), "the core may use {allowed:?}, it uses {core:?}");
    Ok(())
}

#[test]
fn only_the_kernel_crate_speaks_to_the_kernel() -> Result<()> {
    let all = dependencies()?;
    for (package, direct) in &all {
        let netlink = ["rtnetlink", "netlink-proto", "netlink-sys", "netlink-packet-route"];
        for crate_name in netlink.into_iter().chain(["nftables", "wireguard-control"]) {
            assert!(
                !direct.contains(crate_name) || package == "slicewire-kernel",
                "{package} uses {crate_name}; only slicewire-kernel may"
            );
        }
    }
    let kernel = all["slicewire-kernel"].iter();
    let netlink: Vec<_> = kernel.filter(|name| name.contains("netlink")).collect();
    assert_eq!(netlink, ["rtnetlink"], "one library speaks route netlink");
    Ok(())
}

#[test]
fn the_sidecar_has_no_kubernetes_client() -> Result<()> {
    let direct = &dependencies()?["slicewire-router-sidecar"];
    for crate_name in ["kube", "k8s-openapi", "slicewire-api"] {
        assert!(!direct.contains(crate_name), "router-sidecar depends on {crate_name}");
    }
    Ok(())
}
