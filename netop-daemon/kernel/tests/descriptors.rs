//! Opening a namespace leaves no descriptor behind. A process of its own, because they are counted.

#[cfg(test)]
mod tests {
    use slicewire_kernel::{Kernel, LinkEnd, Network as _, NsId, Op};

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[tokio::test]
    async fn as_many_descriptors_as_before() {
        let name = format!("swk{}-fds", std::process::id());
        let kernel = Kernel::new();
        drop(kernel.create(&name).await.unwrap());
        let before = descriptors();
        let mut handles = Vec::new();
        for n in 0..20 {
            let ns = kernel.open(&NsId::named(&name)).await.unwrap();
            let cable = Op::AddVeth {
                end: LinkEnd::new(&format!("a{n}")).up(),
                peer_ns: ns.id().clone(),
                peer: LinkEnd::new(&format!("b{n}")).up(),
            };
            ns.sequence(vec![cable.clone(), cable]).await.unwrap();
            assert_eq!(ns.observe().await.unwrap().links.len(), 2 * n + 3);
            handles.push(ns);
        }
        let open = descriptors();
        assert!(open >= before + 2 * handles.len(), "handles without a socket: {open}");
        drop(handles);
        let after = descriptors();
        kernel.delete(&name).await.unwrap();
        assert_eq!(after, before);
    }
}
