//! Images as archives in the OCI image layout
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::layer::Layer;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image to be written.
pub(crate) struct Image {
    /// Its full name, `registry/path:tag`.
    pub(crate) reference: String,
    /// The program it starts.
    pub(crate) entrypoint: String,
    /// The user and group it starts as.
    pub(crate) user: u32,
    /// Uncompressed layers, lowest first.
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Image {
    /// Writes the archive, whole or not at all; whether it differs from what was there.
    pub(crate) fn write(&self, path: &Path) -> Result<bool> {
        let bytes = self.archive()?;
        if fs::read(path).is_ok_and(|before| before == bytes) {
            return Ok(false);
        }
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, bytes)
            .and_then(|()| fs::rename(&unfinished, path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(true)
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut blobs = Blobs::default();
        let diffs: Vec<String> = self.layers.iter().map(|l| digest(l)).collect();
        let layers: Vec<Value> = self.layers.iter().map(|l| blobs.add(LAYER, l.clone())).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": [self.entrypoint],
                "User": format!("{0}:{0}", self.user),
                "WorkingDir": "/",
                "Env": ["PATH=/usr/bin"],
                "Labels": { "org.opencontainers.image.title": self.entrypoint },
            },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = blobs.add(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let mut manifest = blobs.add(MANIFEST, manifest.to_string().into_bytes());
        // containerd reads the first annotation, everyone else the second.
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": self.reference,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        let mut archive = Layer::new();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.file("index.json", 0o644, index.to_string().as_bytes())?;
        for (name, content) in &blobs.0 {
            archive.file(name, 0o644, content)?;
        }
        archive.finish()
    }
}

/// Content by its path in the layout.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Stores content; its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor =
            json!({ "mediaType": media_type, "digest": digest, "size": content.len() });
        self.0.insert(format!("blobs/{}", digest.replace(':', "/")), content);
        descriptor
    }
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture in the words of OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image(content: &[u8]) -> Image {
        let mut layer = Layer::new();
        layer.file("usr/bin/x", 0o755, content).unwrap();
        Image {
            reference: "registry.example/x:1".into(),
            entrypoint: "/usr/bin/x".into(),
            user: 7,
            layers: vec![layer.finish().unwrap()],
        }
    }

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(archive);
        let entries = tar.entries().unwrap().map(Result::unwrap);
        let files = entries.map(|mut entry| {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        files.collect()
    }

    #[test]
    fn every_descriptor_leads_to_the_content_it_describes() {
        let files = unpack(&image(b"one").archive().unwrap());
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let follow = |descriptor: &Value| {
            let name = descriptor["digest"].as_str().unwrap();
            let content = files[&format!("blobs/{}", name.replace(':', "/"))].clone();
            assert_eq!(digest(&content), name);
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let index = json(&files["index.json"]);
        let manifest = json(&follow(&index["manifests"][0]));
        let config = json(&follow(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/x");
        assert_eq!(config["config"]["User"], "7:7");
        let layer = follow(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(unpack(&layer)["usr/bin/x"], b"one");
        let name = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
        assert_eq!(name, "registry.example/x:1");
    }

    #[test]
    fn an_unchanged_image_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar");
        assert!(image(b"one").write(&path).unwrap());
        assert!(!image(b"one").write(&path).unwrap());
        assert!(image(b"two").write(&path).unwrap());
    }
}
