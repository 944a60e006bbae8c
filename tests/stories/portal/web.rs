//! Clients of other makes: a browser's protocol over curl, and grpcurl.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use prost::Message;
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_tests::portal::{NAME, Portal};
use slicewire_tests::world::World;

use super::everything;

pub(crate) fn web(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let outcome = (|| {
        let token = world.caller("web", true, &everything())?;
        let folder = std::env::temp_dir().join(format!("portal-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("ca.crt"), &portal.authority)?;
        let outcome = browser(&portal, &folder, &token).and_then(|seen| {
            let more = grpcurl(&portal, &folder, &token)?;
            old_tls(&portal, &folder)?;
            Ok(format!("{seen}; {more}"))
        });
        std::fs::remove_dir_all(&folder)?;
        outcome
    })();
    world.remove_portal();
    outcome
}

/// curl, told where the name is.
fn curl(portal: &Portal, folder: &std::path::Path) -> Command {
    let mut curl = Command::new("curl");
    let to = format!("{NAME}:9443:{}", portal.address);
    curl.args(["-sS", "--max-time", "20", "--connect-to", &to, "--cacert"]);
    curl.arg(folder.join("ca.crt"));
    curl
}

/// gRPC-web over HTTP/1.1, as a browser sends it.
fn browser(portal: &Portal, folder: &std::path::Path, token: &str) -> Result<String> {
    let ask = rpc::GetTopologyRequest { project: "demo".into(), slice: "blue".into() };
    let ask = ask.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(ask.len())?.to_be_bytes());
    framed.extend(ask);
    std::fs::write(folder.join("ask"), framed)?;
    let url = format!("https://{NAME}:9443/slicewire.hub.v1alpha1.LiveService/GetTopology");
    let output = curl(portal, folder)
        .args([
            "--http1.1",
            "-H",
            "content-type: application/grpc-web+proto",
            "-H",
            "x-grpc-web: 1",
        ])
        .args(["-H", &format!("authorization: Bearer {token}"), "--data-binary"])
        .arg(format!("@{}", folder.join("ask").display()))
        .arg(url)
        .output()?;
    let body = output.stdout;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(body.first() == Some(&0), "no message: {:?}", String::from_utf8_lossy(&body));
    let length = u32::from_be_bytes(body.get(1..5).context("cut off")?.try_into()?);
    let (message, rest) = body[5..].split_at(usize::try_from(length)?);
    let topology = rpc::GetTopologyResponse::decode(message)?.topology.context("no topology")?;
    ensure!(topology.clusters.len() == 2, "{topology:?}");
    let trailers = String::from_utf8_lossy(rest);
    ensure!(rest.first() == Some(&0x80) && trailers.contains("grpc-status:0"), "{trailers:?}");
    Ok(format!("gRPC-web over HTTP/1.1 tells {} tunnels", topology.tunnels.len()))
}

/// TLS 1.2 is not spoken.
fn old_tls(portal: &Portal, folder: &std::path::Path) -> Result<()> {
    let url = format!("https://{NAME}:9443/");
    let output = curl(portal, folder).args(["--tls-max", "1.2", &url]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("SSL"), "TLS 1.2 was taken: {said}");
    Ok(())
}

/// grpcurl, with nothing but reflection to know the API by.
fn grpcurl(portal: &Portal, folder: &std::path::Path, token: &str) -> Result<String> {
    let program = std::env::var_os("SLICEWIRE_GRPCURL");
    let program = program.context("SLICEWIRE_GRPCURL is not set: `make stories` builds it")?;
    let run = |args: &[&str]| -> Result<String> {
        let output = Command::new(&program)
            .arg("-cacert")
            .arg(folder.join("ca.crt"))
            .args(["-authority", NAME, "-H", &format!("authorization: Bearer {token}")])
            .args(args)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    };
    let services = run(&[&portal.address, "list"])?;
    ensure!(services.contains("slicewire.hub.v1alpha1.SliceService"), "{services}");
    let health = run(&[&portal.address, "grpc.health.v1.Health/Check"])?;
    ensure!(health.contains("SERVING"), "{health}");
    let ask = r#"{"project": "demo", "slice": "blue"}"#;
    let told =
        run(&["-d", ask, &portal.address, "slicewire.hub.v1alpha1.LiveService/GetTopology"])?;
    ensure!(told.contains("\"tunnels\""), "{told}");
    Ok("grpcurl finds its way by reflection".to_owned())
}
