//! What the components are made of.

use std::path::Path;

use anyhow::Result;

use crate::layer::Layer;
use crate::libraries;

/// A component of Slicewire that runs in a cluster.
#[derive(Debug)]
pub(crate) struct Component {
    /// The image's name, and that of its first binary.
    pub(crate) name: &'static str,
    /// The crate it comes from.
    pub(crate) package: &'static str,
    /// The binaries in the image, below `/usr/bin`.
    pub(crate) binaries: &'static [&'static str],
    /// The user it runs as: root only where the kernel's network is configured.
    pub(crate) user: u32,
}

/// Neither root nor anybody in particular.
const NOBODY: u32 = 65532;

/// All components, in the order of their names.
pub(crate) const COMPONENTS: &[Component] = &[
    Component {
        name: "controller",
        package: "slicewire-controller",
        binaries: &["controller"],
        user: NOBODY,
    },
    Component {
        name: "netop-daemon",
        package: "slicewire-netop-daemon",
        binaries: &["netop-daemon"],
        user: 0,
    },
    Component {
        name: "nsm-injector",
        package: "slicewire-nsm-injector",
        binaries: &["nsm-injector", "wait-for-nic"],
        user: NOBODY,
    },
    Component {
        name: "router-sidecar",
        package: "slicewire-router-sidecar",
        binaries: &["router-sidecar"],
        user: 0,
    },
    Component {
        name: "slice-gateway",
        package: "slicewire-gateway",
        binaries: &["slice-gateway"],
        user: 0,
    },
];

/// Libraries glibc loads by name when it resolves one.
const NAME_SERVICE: &[&str] = &["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];
/// Where Debian keeps the certificates of public authorities.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The image's layers: what changes seldom first, the binaries last.
pub(crate) fn layers(component: &Component, binaries: &Path) -> Result<Vec<Vec<u8>>> {
    let mut base = Layer::new();
    root(&mut base)?;
    let mut own = Layer::new();
    for binary in component.binaries {
        let file = binaries.join(binary);
        own.copy(&file, &format!("usr/bin/{binary}"))?;
        for library in libraries::of(&file)? {
            base.copy(&library, &in_image(&library))?;
        }
    }
    let beside: Vec<_> = libraries::of(&binaries.join(component.name))?
        .iter()
        .filter(|l| l.file_name().is_some_and(|n| n == "libc.so.6"))
        .filter_map(|libc| libc.parent().map(Path::to_owned))
        .collect();
    for name in NAME_SERVICE {
        for file in beside.iter().map(|directory| directory.join(name)).filter(|f| f.exists()) {
            base.copy(&file, &in_image(&file))?;
        }
    }
    Ok(vec![base.finish()?, own.finish()?])
}

/// The skeleton the C library expects.
fn root(layer: &mut Layer) -> Result<()> {
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        layer.link(link, target)?;
    }
    let users =
        format!("root:x:0:0:root:/:/nonexistent\nnobody:x:{NOBODY}:{NOBODY}::/:/nonexistent\n");
    layer.file("etc/passwd", 0o644, users.as_bytes())?;
    layer.file("etc/group", 0o644, format!("root:x:0:\nnobody:x:{NOBODY}:\n").as_bytes())?;
    layer.file("etc/nsswitch.conf", 0o644, b"passwd: files\ngroup: files\nhosts: files dns\n")?;
    layer.directory("tmp", 0o1777)?;
    if Path::new(AUTHORITIES).exists() {
        layer.copy_as(Path::new(AUTHORITIES), AUTHORITIES.trim_start_matches('/'), 0o644)?;
    }
    Ok(())
}

/// Where a library of this machine goes: `/lib…` is a link to `/usr/lib…` in the image.
fn in_image(library: &Path) -> String {
    let path = library.to_string_lossy();
    let path = path.trim_start_matches('/');
    if path.starts_with("lib") { format!("usr/{path}") } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_entrypoint_is_one_of_its_binaries() {
        for component in COMPONENTS {
            assert!(component.binaries.contains(&component.name), "{component:?}");
        }
    }

    #[test]
    fn libraries_go_where_the_loader_looks() {
        let at = |path: &str| in_image(Path::new(path));
        assert_eq!(at("/lib64/ld-linux-x86-64.so.2"), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(at("/lib/x86_64-linux-gnu/libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(at("/usr/lib/x86_64-linux-gnu/libz.so.1"), "usr/lib/x86_64-linux-gnu/libz.so.1");
        assert_eq!(at("/opt/lib/libq.so"), "opt/lib/libq.so");
    }
}
