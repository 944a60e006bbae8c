//! Builds one OCI archive per component, without Docker.
//!
//! Each image holds the component's binary, the libraries it is linked to, and what the C library
//! needs to resolve names. The same inputs give the same bytes, so that an unchanged component is
//! not loaded again.

mod archive;
mod component;
mod layer;
mod libraries;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::archive::Image;
use crate::component::{COMPONENTS, Component};

/// Builds the components' images as OCI archives, `<output>/<name>.tar`.
///
/// Import one with `ctr -n k8s.io images import`, `podman load -i`, `kind load image-archive`, or
/// push it with `skopeo copy oci-archive:<file> docker://<registry>/<name>:<tag>`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Registry and path of the images' names.
    #[arg(long, default_value = "slicewire.dev")]
    prefix: String,
    /// Tag of the images' names.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Where the archives go.
    #[arg(long, default_value = "target/images")]
    output: PathBuf,
    /// Cargo profile to build with: `release` or `dev`.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Jobs cargo may run at once; cargo's own choice when left out.
    #[arg(long, short)]
    jobs: Option<u32>,
    /// Take binaries as they are in the target directory instead of building them.
    #[arg(long)]
    no_build: bool,
    /// Components to build; all when none is named.
    components: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let components = chosen(&arguments.components)?;
    if !arguments.no_build {
        build(&components, &arguments)?;
    }
    let binaries = binaries(&arguments.profile);
    std::fs::create_dir_all(&arguments.output)
        .with_context(|| format!("cannot make {}", arguments.output.display()))?;
    for component in components {
        let image = Image {
            reference: format!("{}/{}:{}", arguments.prefix, component.name, arguments.tag),
            entrypoint: format!("/usr/bin/{}", component.name),
            user: component.user,
            layers: component::layers(component, &binaries)
                .with_context(|| format!("cannot put together the image of {}", component.name))?,
        };
        let path = arguments.output.join(format!("{}.tar", component.name));
        let changed = image.write(&path)?;
        let state = if changed { "written" } else { "unchanged" };
        writeln!(io::stdout(), "{} {} ({state})", path.display(), image.reference)?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Component>> {
    let known = || COMPONENTS.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    let unknown: Vec<_> =
        names.iter().filter(|n| COMPONENTS.iter().all(|c| c.name != n.as_str())).collect();
    if !unknown.is_empty() {
        bail!("no component is called {unknown:?}; there are {}", known());
    }
    let wanted = |c: &&Component| names.is_empty() || names.iter().any(|n| n == c.name);
    Ok(COMPONENTS.iter().filter(wanted).collect())
}

fn build(components: &[&Component], arguments: &Arguments) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--profile", &arguments.profile]);
    if let Some(jobs) = arguments.jobs {
        cargo.arg(format!("--jobs={jobs}"));
    }
    for component in components {
        cargo.args(["--package", component.package]);
        for binary in component.binaries {
            cargo.args(["--bin", binary]);
        }
    }
    let status = cargo.status().context("cannot run cargo; see that Rust is installed")?;
    if !status.success() {
        bail!("the components do not build; see cargo's messages above");
    }
    Ok(())
}

/// Where cargo puts binaries of a profile.
fn binaries(profile: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    target.join(if profile == "dev" { "debug" } else { profile })
}
