//! Mappings of internal endpoints to external ones, and the allocation of external ports
//! (RFC 4787 sections 4.1-4.3, RFC 6056, RFC 6888).
//!
//! Two views of one truth: a slot for each external port (`ports`, found by `directory`) says whose
//! it is; an index by internal endpoint names the slots of a guest's mappings. Locks: a shard of the
//! index first, then the ports of one public address and protocol, a guest's counts last; never two of a
//! kind.
//!
//! Memory: 16.3 bytes for each port in use (64 ports at a time), 8 bytes of index for each of the
//! `capacity` mappings, and 1 KiB for each public address and protocol in use.

mod allowed;
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
use std::sync::atomic::Ordering;

use ahash::RandomState;

use crate::flow::{Endpoint, Protocol, Realm};
use crate::time::{Coarse, Tick};
use allowed::{Allowed, Parity};
use directory::{Directory, Space};
use index::{Index, PortName};
use owner::Owner;
use ports::{Adopted, Left, Wish};
use quota::Quota;

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
    /// The pool address that the guest's live sessions have, if there are some.
    pub paired: Option<Ipv4Addr>,
    /// What the guest may have.
    pub limits: MappingLimits,
    /// Whether what was bound before turned out to carry a session to the remote already.
    pub was_taken: bool,
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

impl Bound {
    const fn alone(external: Endpoint, is_new: bool) -> Self {
        Self { external, overloaded: false, is_new }
    }
}

/// Why there is no external endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindError {
    /// The guest has as many as it may have.
    GuestLimit,
    /// No external port is free.
    PortsExhausted,
}

/// All mappings of all pool addresses, shared by the workers.
pub struct Mappings {
    directory: Directory,
    index: Index,
    quota: Quota,
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
            quota: Quota::new(hasher(4)),
            hasher: hasher(3),
        }
    }

    /// Asks for what [`Self::bind`] will look at first of an internal endpoint.
    pub fn prefetch(&self, realm: Realm, protocol: Protocol, internal: Endpoint) {
        self.index.prefetch(self.index.place(protocol, Owner::new(realm, internal)));
    }

    /// The external endpoint for a new session of `request.internal`: its present mapping, or a new
    /// one. Takes one reference (unless overloaded). `unused` says whether the external endpoint
    /// carries no session to the remote in question yet; it is asked only for overloading, where there
    /// is some, or after an endpoint was taken, and must not call back into the mappings.
    ///
    /// An overloaded session is given back with [`Self::release_overloaded`]. Two workers may be
    /// given the same overloaded endpoint for the same remote at once: the session table lets one
    /// of them in, and the other binds again.
    ///
    /// # Errors
    /// When no port is free after a bounded search, or the guest has as many as it may.
    pub fn bind(
        &self,
        request: &BindRequest<'_>,
        now: Tick,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Bound, BindError> {
        let owner = Owner::new(request.realm, request.internal);
        let exclusive = match request.pool.mapping {
            MappingBehavior::AddressAndPortDependent => self.take(request, owner, now, &unused)?,
            MappingBehavior::EndpointIndependent => {
                match self.bind_independent(request, owner, now, &unused)? {
                    Independent::Joined(external) => return Ok(Bound::alone(external, false)),
                    Independent::Taken(taken) => taken,
                }
            }
        };
        match exclusive {
            Some((space, port)) => Ok(Bound::alone(space.endpoint(port), true)),
            None => self.overload(request, owner, &unused),
        }
    }

    /// The public address that the guest of `request` shows, for protocols without ports.
    #[must_use]
    pub fn paired_address(&self, request: &BindRequest<'_>) -> Option<Ipv4Addr> {
        self.paired(request).ok().map(|(pooled, _)| pooled.address)
    }

    /// The mapping at an external endpoint, live references only.
    #[must_use]
    pub fn find(&self, protocol: Protocol, external: Endpoint) -> Option<Mapping> {
        let space = self.directory.find(external.address, protocol)?;
        let (owner, sessions) = space.ports.lock().owner(external.port)?;
        Some(Mapping { realm: owner.realm(), internal: owner.internal(), external, sessions })
    }

    /// Takes one more reference on the mapping at `external` for another session (an inbound one).
    /// Returns false if it is gone.
    pub fn hold(&self, protocol: Protocol, external: Endpoint) -> bool {
        let space = self.directory.find(external.address, protocol);
        space.is_some_and(|space| space.ports.lock().hold(external.port))
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
        let left = space.ports.lock().leave_shared(port);
        let owner = match left {
            Left::Gone | Left::Shared => return None,
            Left::Last(owner) => owner,
        };
        // The index is locked first everywhere, so the last reference takes a second attempt;
        // another worker may have joined the mapping meanwhile, which `leave` sees.
        let place = self.index.place(protocol, owner);
        let mut shard = self.index.lock(place);
        if !space.ports.lock().leave(port, owner, now.coarse()) {
            return None;
        }
        shard.remove(place, PortName { space: space.number, port });
        self.quota.leave(owner.guest(), protocol);
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
        let adopted = space.ports.lock().adopt(external.port, owner);
        match adopted {
            Adopted::Joined => true,
            Adopted::Refused => false,
            Adopted::Taken => {
                let _unlimited =
                    self.quota.enter(owner.guest(), protocol, MappingLimits::default());
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
            for group in 0..32 {
                // Workers wait for the lock, so people's part is done after it.
                space.ports.lock().for_each_in_group(group, |port, owner, sessions| {
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
        let ports = space.ports.lock();
        PortUsage { live: ports.live(), resting: ports.resting(), overloaded }
    }

    /// What a guest has.
    #[must_use]
    pub fn of_guest(&self, realm: Realm, guest: Ipv4Addr) -> MappingCounts {
        self.quota.counts(Owner::new(realm, Endpoint::new(guest, 0)).guest())
    }

    /// Bytes of memory all this takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.directory.memory_bytes() + self.index.memory_bytes()
    }

    /// The owner's mapping or a new one; none if there is no free port.
    fn bind_independent(
        &self,
        request: &BindRequest<'_>,
        owner: Owner,
        now: Tick,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Independent<'_>, BindError> {
        let place = self.index.place(request.protocol, owner);
        // Locked until the new mapping stands in the index, so that an internal endpoint never gets
        // two at once (RFC 4787, REQ-1).
        let mut shard = self.index.lock(place);
        match self.reuse(shard.candidates(place), request, owner, &unused) {
            Reuse::Bound(external) => return Ok(Independent::Joined(external)),
            Reuse::Conflict => {
                // This one session goes elsewhere; the mapping stays for all others.
                drop(shard);
                return self.take(request, owner, now, &unused).map(Independent::Taken);
            }
            Reuse::None => {}
        }
        let Some((space, port)) = self.take(request, owner, now, &unused)? else {
            return Ok(Independent::Taken(None));
        };
        if shard.insert(place, PortName { space: space.number, port }).is_err() {
            space.ports.lock().leave(port, owner, now.coarse());
            self.quota.leave(owner.guest(), request.protocol);
            return Err(BindError::PortsExhausted);
        }
        Ok(Independent::Taken(Some((space, port))))
    }

    /// One more reference on a mapping that the owner has and `request.pool` still allows. The
    /// shard that `candidates` come from is locked, so no mapping of the owner ends meanwhile.
    fn reuse(
        &self,
        candidates: impl Iterator<Item = PortName>,
        request: &BindRequest<'_>,
        owner: Owner,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Reuse {
        let pool = request.pool;
        for PortName { space, port } in candidates {
            let Some(space) = self.directory.get(space) else { continue };
            // A reload may have taken the address or the port away: old sessions keep it.
            let address = pool.addresses.iter().find(|pooled| pooled.address == space.address);
            let is_allowed = address.is_some_and(|address| {
                Allowed::new(pool, address, request.protocol).contains(port)
            });
            if !is_allowed || space.protocol != request.protocol {
                continue;
            }
            let external = space.endpoint(port);
            if request.was_taken || space.overloaded.load(Ordering::Relaxed) > 0 {
                let has_it = space.ports.lock().owner(port).is_some_and(|(has, _)| has == owner);
                // Another guest's overloaded session to this remote may have the port.
                if has_it && !unused(external) {
                    return Reuse::Conflict;
                }
            }
            if space.ports.lock().join(port, owner) {
                return Reuse::Bound(external);
            }
        }
        Reuse::None
    }

    /// A port of the guest's pool address that nobody else has, if there is one.
    fn take<'s>(
        &'s self,
        request: &BindRequest<'_>,
        owner: Owner,
        now: Tick,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Option<(&'s Space, u16)>, BindError> {
        let (address, space) = self.paired(request)?;
        let wish = Wish {
            owner,
            allowed: Allowed::new(request.pool, address, request.protocol),
            hold_units: Coarse::units(request.pool.hold),
            now: now.coarse(),
        };
        let is_shared = request.was_taken || space.overloaded.load(Ordering::Relaxed) > 0;
        self.quota.enter(owner.guest(), request.protocol, request.limits)?;
        let port = space.ports.lock().take(
            &wish,
            |draw| self.random(space, draw),
            |port| !is_shared || unused(space.endpoint(port)),
        );
        if port.is_none() {
            self.quota.leave(owner.guest(), request.protocol);
        }
        Ok(port.map(|port| (space, port)))
    }

    /// An external endpoint that others use too, but not to this remote. No lock is held.
    fn overload(
        &self,
        request: &BindRequest<'_>,
        owner: Owner,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Bound, BindError> {
        let (address, space) = self.paired(request)?;
        if !request.pool.overload {
            return Err(BindError::PortsExhausted);
        }
        let allowed = Allowed::new(request.pool, address, request.protocol);
        let passes = allowed.passes(owner.port());
        let pass = passes.iter().flatten().next().ok_or(BindError::PortsExhausted)?;
        let mut candidate = owner.port();
        for attempt in 1..=OVERLOAD_ATTEMPTS {
            let external = space.endpoint(candidate);
            if allowed.contains(candidate) && unused(external) {
                space.overloaded.fetch_add(1, Ordering::Relaxed);
                return Ok(Bound { external, overloaded: true, is_new: false });
            }
            let draw = space.ports.lock().next_draw();
            candidate = pass.port(self.random(space, draw) as u32);
            // The later half of the attempts takes either parity.
            let parity = if attempt < OVERLOAD_ATTEMPTS / 2 { pass.parity } else { Parity::Any };
            candidate = parity.nearest(candidate);
        }
        Err(BindError::PortsExhausted)
    }

    /// The number of a draw, which nobody can foretell who does not know the seed.
    fn random(&self, space: &Space, draw: u64) -> u64 {
        self.hasher.hash_one(draw << 16 | u64::from(space.number))
    }

    /// The pool address of a guest: the same for all its sessions and protocols (RFC 4787, REQ-2),
    /// also when the pool grows while some live; of guests without any, most keep theirs (rendezvous
    /// hashing).
    fn paired<'s, 'p>(
        &'s self,
        request: &BindRequest<'p>,
    ) -> Result<(&'p PoolAddress, &'s Space), BindError> {
        let guest = (request.realm.as_raw(), request.internal.address.to_bits());
        let addresses = &request.pool.addresses;
        let address = match addresses.as_slice() {
            [only] => only,
            several => request
                .paired
                .and_then(|paired| several.iter().find(|pooled| pooled.address == paired))
                .or_else(|| {
                    let by_hash = |pooled: &&PoolAddress| {
                        self.hasher.hash_one((guest, pooled.address.to_bits()))
                    };
                    several.iter().max_by_key(by_hash)
                })
                .ok_or(BindError::PortsExhausted)?,
        };
        let space = self.directory.find_or_make(address.address, request.protocol);
        Ok((address, space.ok_or(BindError::PortsExhausted)?))
    }
}

/// What an endpoint-independent request got.
enum Independent<'s> {
    /// One more reference on what the endpoint has.
    Joined(Endpoint),
    /// A port of its own, if one was free.
    Taken(Option<(&'s Space, u16)>),
}

/// What became of a request for an endpoint's present mapping.
enum Reuse {
    /// It serves, and has one more reference.
    Bound(Endpoint),
    /// There is one, but not for this remote.
    Conflict,
    /// There is none.
    None,
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

/// Ports tried for an overloaded session before it is given up.
const OVERLOAD_ATTEMPTS: u32 = 128;
