//! Gateway pods as they are in clusters: the real programs, in network namespaces. Needs root.

#[cfg(test)]
mod authority;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod lanes;
#[cfg(test)]
mod two_gateways;
