//! Mappings of internal endpoints to external ones, and the allocation of external ports
//! (RFC 4787 sections 4.1-4.3, RFC 6056, RFC 6888).
//!
//! Two views of one truth: a slot for each external port (`ports`, found by `directory`) says whose
//! it is; an index by internal endpoint names the slots of a guest's mappings. The ports of one public
//! address and protocol are in 64 blocks (`block`) with a lock each, so that workers seldom wait for each
//! other. Locks: a shard of the index first, then a block of ports, a guest's counts last; never two of a
//! kind.
//!
//! Memory: 16 bytes for each port in use (64 ports at a time) and 448 for each block of 1,024 ports, kept
//! once used; 8 bytes of index for each of the `capacity` mappings; 1.2 KiB for each public address and
//! protocol in use.

mod allowed;
mod bind;
mod block;
mod directory;
mod index;
mod owner;
mod pool;
mod ports;
mod quota;
mod slots;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ahash::RandomState;

use crate::flow::{Endpoint, Protocol, Realm};
use crate::nat::guests::{GuestLimits, Guests};
use crate::time::Tick;
use crate::verdict::DropReason;
use block::{Adopted, Left};
use directory::Directory;
use index::{Index, PortName};
use owner::Owner;
use ports::BLOCKS;

pub use index::Place;
pub use pool::{MappingBehavior, Pool, PoolAddress};
pub use quota::{MappingCounts, MappingLimits};

/// Who wants an external endpoint, for what.
#[derive(Clone, Copy, Debug)]
pub struct BindRequest<'a> {
    /// The guest's realm.
    pub realm: Realm,
    /// TCP, UDP, ICMP (ports are identifiers), SCTP, DCCP or UDP-Lite.
    pub protocol: Protocol,
    /// The guest's endpoint.
    pub internal: Endpoint,
    /// Where from.
    pub pool: &'a Pool,
    /// The pool address that the session shows, if that is known. Who has the session counted need not know.
    pub paired: Option<Ipv4Addr>,
    /// What the guest may have.
    pub limits: MappingLimits,
    /// Whether what was bound before turned out to carry a session to the remote already.
    pub was_taken: bool,
    /// What the guest may use of sessions, if the session that the endpoint is for is to be counted too.
    pub session: Option<GuestLimits>,
    /// What [`Mappings::prefetch`] said of the guest's endpoint, if it was called.
    pub place: Option<Place>,
}

impl<'a> BindRequest<'a> {
    /// One for a session that is counted apart, of a guest without others.
    #[must_use]
    pub const fn new(
        (realm, protocol, internal): (Realm, Protocol, Endpoint),
        pool: &'a Pool,
        limits: MappingLimits,
    ) -> Self {
        Self {
            realm,
            protocol,
            internal,
            pool,
            paired: None,
            limits,
            was_taken: false,
            session: None,
            place: None,
        }
    }
}

/// An external endpoint given to an internal one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// The guest's realm.
    pub realm: Realm,
    /// The guest's endpoint.
    pub internal: Endpoint,
    /// The public endpoint.
    pub external: Endpoint,
    /// Sessions that use it now.
    pub sessions: u32,
}

/// What a request got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bound {
    /// The external endpoint.
    pub external: Endpoint,
    /// Whether others' sessions to other remotes share it: nothing inbound may rely on it, and it
    /// holds no reference.
    pub overloaded: bool,
    /// Whether no session used it before.
    pub is_new: bool,
}

/// Why there is no external endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindError {
    /// No external port is free.
    PortsExhausted,
    /// The guest has as many as it may have, of mappings or of sessions.
    Refused(DropReason),
}

/// All mappings of all pool addresses, shared by the workers.
pub struct Mappings {
    directory: Directory,
    index: Index,
    guests: Arc<Guests>,
    hasher: RandomState,
}

impl Mappings {
    /// No mappings; room for `capacity`. `seed` keys the hash and the choice of ports.
    #[must_use]
    pub fn new(capacity: usize, seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        // One key each, so that none tells anything of another.
        let hasher = |use_of: u64| RandomState::with_seeds(a ^ use_of, b, c, d);
        Self {
            directory: Directory::new(hasher(1)),
            index: Index::new(capacity, hasher(2)),
            guests: Arc::new(Guests::new(seed)),
            hasher: hasher(3),
        }
    }

    /// What guests have, of mappings and other things.
    #[must_use]
    pub const fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    /// Asks for what [`Self::bind`] will look at first of an internal endpoint, and says where that is.
    #[inline(always)]
    pub fn prefetch(&self, realm: Realm, protocol: Protocol, internal: Endpoint) -> Place {
        let place = self.index.place(protocol, Owner::new(realm, internal));
        self.index.prefetch(place);
        place
    }

    /// The public address that the guest of `request` would show.
    #[must_use]
    pub fn paired_address(&self, request: &BindRequest<'_>) -> Option<Ipv4Addr> {
        self.paired(request, request.paired).ok().map(|(pooled, _)| pooled.address)
    }

    /// The mapping at an external endpoint, live references only.
    #[must_use]
    pub fn find(&self, protocol: Protocol, external: Endpoint) -> Option<Mapping> {
        let space = self.directory.find(external.address, protocol)?;
        let (owner, sessions) = space.ports.owner(external.port)?;
        Some(Mapping { realm: owner.realm(), internal: owner.internal(), external, sessions })
    }

    /// Takes one more reference on the mapping at `external` for another session (an inbound one).
    /// Returns false if it is gone.
    pub fn hold(&self, protocol: Protocol, external: Endpoint) -> bool {
        let space = self.directory.find(external.address, protocol);
        space.is_some_and(|space| space.ports.hold(external.port))
    }

    /// Gives one reference back; the last one frees the port, which then rests. Returns whose mapping
    /// it was that ended.
    pub fn release(
        &self,
        protocol: Protocol,
        external: Endpoint,
        now: Tick,
    ) -> Option<(Realm, Endpoint)> {
        let space = self.directory.find(external.address, protocol)?;
        let port = external.port;
        let left = space.ports.leave_shared(port);
        let owner = match left {
            Left::Gone | Left::Shared => return None,
            Left::Last(owner) => owner,
        };
        // The index is locked first everywhere, so the last reference takes a second attempt;
        // another worker may have joined the mapping meanwhile, which `leave` sees.
        let place = self.index.place(protocol, owner);
        let mut shard = self.index.lock(place);
        if !space.ports.leave(port, owner, now.coarse()) {
            return None;
        }
        shard.remove(place, PortName { space: space.number, port });
        self.leave_mapping(owner, protocol);
        Some((owner.realm(), owner.internal()))
    }

    /// Gives back what an overloaded session counted for.
    pub fn release_overloaded(&self, protocol: Protocol, external: Endpoint) {
        if let Some(space) = self.directory.find(external.address, protocol) {
            // Fails only at zero, where there is nothing to give back.
            let less = |count: u32| count.checked_sub(1);
            let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
            let _ = space.overloaded.fetch_update(set, fetch, less);
        }
    }

    /// Takes a reference on a mapping that an adopted session has, making it if need be. Returns
    /// false, and takes none, if the external endpoint is another internal endpoint's: such a
    /// session must go.
    pub fn adopt(
        &self,
        realm: Realm,
        protocol: Protocol,
        internal: Endpoint,
        external: Endpoint,
    ) -> bool {
        let Some(space) = self.directory.find_or_make(external.address, protocol) else {
            return false;
        };
        let owner = Owner::new(realm, internal);
        let place = self.index.place(protocol, owner);
        let mut shard = self.index.lock(place);
        let adopted = space.ports.adopt(external.port, owner);
        match adopted {
            Adopted::Joined => true,
            Adopted::Refused => false,
            Adopted::Taken => {
                let (guest, unlimited) = (internal.address, MappingLimits::default());
                let _unlimited = self.guests.enter_mapping(realm, guest, protocol, unlimited);
                // Without room in the index the mapping lives for the sessions it has.
                let name = PortName { space: space.number, port: external.port };
                let _ = shard.insert(place, name);
                true
            }
        }
    }

    /// Counts an adopted session that shares its port.
    pub fn adopt_overloaded(&self, protocol: Protocol, external: Endpoint) {
        if let Some(space) = self.directory.find_or_make(external.address, protocol) {
            space.overloaded.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every live mapping, for people to look at.
    pub fn for_each(&self, mut visit: impl FnMut(Protocol, &Mapping)) {
        let mut mappings = Vec::new();
        for space in self.directory.iter() {
            for block in 0..BLOCKS as u16 {
                // Workers wait for the lock, so people's part is done after it.
                space.ports.for_each_in_block(block, |port, owner, sessions| {
                    let external = Endpoint::new(space.address, port);
                    let (realm, internal) = (owner.realm(), owner.internal());
                    mappings.push(Mapping { realm, internal, external, sessions });
                });
                for mapping in mappings.drain(..) {
                    visit(space.protocol, &mapping);
                }
            }
        }
    }

    /// Ports in use on a public address: live, and resting.
    #[must_use]
    pub fn usage(&self, address: Ipv4Addr, protocol: Protocol) -> PortUsage {
        let Some(space) = self.directory.find(address, protocol) else {
            return PortUsage::default();
        };
        let overloaded = space.overloaded.load(Ordering::Relaxed);
        let (live, resting) = space.ports.usage();
        PortUsage { live, resting, overloaded }
    }

    /// What a guest has.
    #[must_use]
    pub fn of_guest(&self, realm: Realm, guest: Ipv4Addr) -> MappingCounts {
        self.guests.mappings(realm, guest)
    }

    /// Bytes of memory all this takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.directory.memory_bytes() + self.index.memory_bytes()
    }
}

/// How full a public address is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortUsage {
    /// Ports with live mappings.
    pub live: u32,
    /// Ports that rest.
    pub resting: u32,
    /// Sessions that share ports because none was free.
    pub overloaded: u32,
}
