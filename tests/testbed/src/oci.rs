//! Image archives in the OCI layout, and what is said in those of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image to be made: one layer and how to start it.
pub struct Image {
    /// The full reference, `registry/name:tag`.
    pub reference: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The layer, an uncompressed tar.
    pub layer: Vec<u8>,
}

/// A layer in the making; times and owners are all zero, so that the same
/// content gives the same bytes.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
    seen: BTreeSet<String>,
}

impl Default for Layer {
    /// An empty layer.
    fn default() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), seen: BTreeSet::new() }
    }
}

impl Layer {
    /// A file with this content; the first of a path counts.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        if !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        let mut header = header(tar::EntryType::Regular, mode, content.len());
        Ok(self.tar.append_data(&mut header, path, content)?)
    }

    /// A copy of a file of this machine.
    pub fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, 0o755, &content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        if !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        Ok(self.tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?)
    }

    /// An empty directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        if !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        let mut header = header(tar::EntryType::Directory, mode, 0);
        Ok(self.tar.append_data(&mut header, format!("{path}/"), std::io::empty())?)
    }

    /// The layer's bytes.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent, 0o755),
            None => Ok(()),
        }
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

impl Image {
    /// Writes the archive, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut blobs = BTreeMap::new();
        let mut blob = |media: &str, content: Vec<u8>| {
            let digest = hex(&content);
            let descriptor = json!({
                "mediaType": media, "digest": format!("sha256:{digest}"), "size": content.len(),
            });
            blobs.insert(format!("blobs/sha256/{digest}"), content);
            descriptor
        };
        let diff = format!("sha256:{}", hex(&self.layer));
        let layer = blob("application/vnd.oci.image.layer.v1.tar", self.layer.clone());
        let path_variable = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": { "Cmd": self.command, "Env": [path_variable] },
            "rootfs": { "type": "layers", "diff_ids": [diff] },
        });
        let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().into());
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer],
        });
        let mut manifest = blob(manifest_type, manifest.to_string().into());
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": self.reference,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        let mut archive = Layer::default();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.file("index.json", 0o644, index.to_string().as_bytes())?;
        for (name, content) in &blobs {
            archive.file(name, 0o644, content)?;
        }
        crate::process::write_whole(path, &archive.finish()?)
    }
}

/// The images in an archive: reference to the digest of what it stands for.
///
/// Reads the OCI layout (`index.json`) and, failing that, what `docker save`
/// writes (`manifest.json`).
///
/// # Errors
/// When the file is neither, or an image in it has no name.
pub fn contents(path: &Path) -> Result<BTreeMap<String, String>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if name == "index.json" || name == "manifest.json" {
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            found.insert(name, text);
        }
    }
    let images = match (found.get("index.json"), found.get("manifest.json")) {
        (Some(index), _) => oci_images(&serde_json::from_slice(index)?),
        (None, Some(manifest)) => docker_images(&serde_json::from_slice(manifest)?),
        (None, None) => bail!("{} is neither an OCI nor a Docker archive", path.display()),
    };
    if images.is_empty() {
        bail!("no image in {} has a name: annotate it with one when making it", path.display());
    }
    Ok(images)
}

fn oci_images(index: &Value) -> BTreeMap<String, String> {
    let manifests = index["manifests"].as_array().into_iter().flatten();
    let named = manifests.filter_map(|manifest| {
        let annotations = &manifest["annotations"];
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| annotations[*key].as_str())?;
        Some((name.to_owned(), manifest["digest"].as_str()?.to_owned()))
    });
    named.collect()
}

fn docker_images(manifest: &Value) -> BTreeMap<String, String> {
    let images = manifest.as_array().into_iter().flatten();
    let named = images.flat_map(|image| {
        let tags = image["RepoTags"].as_array().into_iter().flatten();
        let digest = format!("config:{}", image["Config"].as_str().unwrap_or_default());
        tags.filter_map(|tag| tag.as_str()).map(move |tag| (tag.to_owned(), digest.clone()))
    });
    named.collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &[u8]) -> Image {
        let mut layer = Layer::default();
        layer.file("usr/bin/program", 0o755, text).unwrap();
        layer.link("bin", "usr/bin").unwrap();
        Image {
            reference: "slicewire.test/x:dev".into(),
            command: vec!["/bin/program".into()],
            layer: layer.finish().unwrap(),
        }
    }

    #[test]
    fn an_archive_tells_its_images_and_the_same_content_is_the_same_image() {
        let path = std::env::temp_dir().join(format!("oci-{}.tar", std::process::id()));
        let digest = |text: &[u8]| {
            image(text).write(&path).unwrap();
            contents(&path).unwrap().remove("slicewire.test/x:dev").unwrap()
        };
        let first = digest(b"one");
        assert!(first.starts_with("sha256:"));
        assert_eq!(first, digest(b"one"));
        assert_ne!(first, digest(b"two"));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn dockers_archives_are_understood() {
        let manifest = json!([{ "Config": "abc.json", "RepoTags": ["a/b:1", "a/b:2"] }]);
        let images = docker_images(&manifest);
        assert_eq!(images.len(), 2);
        assert_eq!(images["a/b:1"], "config:abc.json");
    }
}
