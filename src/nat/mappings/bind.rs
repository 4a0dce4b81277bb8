//! How a session gets its external endpoint: the mapping that its internal endpoint has, a port of its own, or
//! one that it shares.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use super::allowed::{Allowed, Parity};
use super::block::Wish;
use super::directory::Space;
use super::index::{Candidates, PortName};
use super::owner::Owner;
use super::{BindError, BindRequest, Bound, MappingBehavior, Mappings, PoolAddress};
use crate::flow::{Endpoint, Protocol};
use crate::nat::guests::Shows;
use crate::time::{Coarse, Tick};

impl Mappings {
    /// The external endpoint for a new session of `request.internal`: its present mapping, or a new
    /// one. Takes one reference (unless overloaded). `unused` says whether the external endpoint
    /// carries no session to the remote in question yet; it is asked only for overloading, where there
    /// is some, or after an endpoint was taken, and must not call back into the mappings.
    ///
    /// Counts the session, if it is asked to; without one it counts none.
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
        // Locked until the new mapping stands in the index, so that an internal endpoint never gets
        // two at once (RFC 4787, REQ-1).
        let mut index = None;
        if request.pool.mapping == MappingBehavior::EndpointIndependent {
            let place = request.place.unwrap_or_else(|| self.index.place(request.protocol, owner));
            let shard = self.index.lock(place);
            let candidates = shard.candidates(place);
            // Most endpoints that ask have none yet.
            let reuse = match candidates.are_none() {
                true => Reuse::None,
                false => self.reuse(candidates, request, owner, now, &unused)?,
            };
            match reuse {
                Reuse::Bound(bound) => return Ok(bound),
                // This one session goes elsewhere; the mapping stays for all others.
                Reuse::Conflict => {}
                Reuse::None => index = Some((shard, place)),
            }
        }
        let (address, port) = self.take(request, owner, now, &unused)?;
        let Some((space, port)) = port else {
            drop(index);
            let request = BindRequest { paired: Some(address), ..*request };
            let shared = self.overload(&request, owner, &unused);
            return shared.inspect_err(|_| self.leave_session(&request, Some(address)));
        };
        if let Some((mut shard, place)) = index
            && shard.insert(place, PortName { space: space.number, port }).is_err()
        {
            space.ports.leave(port, owner, now.coarse());
            self.leave_mapping(owner, request.protocol);
            self.leave_session(request, Some(address));
            return Err(BindError::PortsExhausted);
        }
        Ok(Bound { external: space.endpoint(port), overloaded: false, is_new: true })
    }

    /// The public address for a new session of a protocol without ports. Counts the session, if it is
    /// asked to; without one it counts none.
    ///
    /// # Errors
    /// When there is no address, or the guest has as many sessions as it may.
    pub fn bind_address(
        &self,
        request: &BindRequest<'_>,
        now: Tick,
    ) -> Result<Ipv4Addr, BindError> {
        let shown = self.enter_session(request, Shows::OneOf(request.pool), now)?;
        let found = self.shown(request, shown);
        let (pooled, _) = found.inspect_err(|_| self.leave_session(request, shown))?;
        Ok(pooled.address)
    }

    /// One more reference on a mapping that the owner has and `request.pool` still allows. The
    /// shard that `candidates` come from is locked, so no mapping of the owner ends meanwhile.
    #[inline(never)]
    fn reuse(
        &self,
        candidates: Candidates<'_>,
        request: &BindRequest<'_>,
        owner: Owner,
        now: Tick,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Reuse, BindError> {
        let pool = request.pool;
        for PortName { space, port } in candidates {
            let Some(space) = self.directory.get(space) else { continue };
            // A reload may have taken the address or the port away: old sessions keep it.
            let address = pool.addresses.iter().find(|pooled| pooled.address == space.address);
            let is_allowed = address.is_some_and(|address| {
                Allowed::new(pool, address, request.protocol).contains(port)
            });
            // A session that was counted at one address shows no other.
            let is_elsewhere = request.paired.is_some_and(|paired| paired != space.address);
            if !is_allowed || is_elsewhere || space.protocol != request.protocol {
                continue;
            }
            let external = space.endpoint(port);
            if request.was_taken || space.overloaded.load(Ordering::Relaxed) > 0 {
                let has_it = space.ports.owner(port).is_some_and(|(has, _)| has == owner);
                // Another guest's overloaded session to this remote may have the port.
                if has_it && !unused(external) {
                    return Ok(Reuse::Conflict);
                }
            }
            let shown = self.enter_session(request, Shows::Address(space.address), now)?;
            if space.ports.join(port, owner) {
                let bound = Bound { external, overloaded: false, is_new: false };
                return Ok(Reuse::Bound(bound));
            }
            self.leave_session(request, shown);
        }
        Ok(Reuse::None)
    }

    /// The guest's pool address, and a port of it that nobody else has, if there is one. Counts the
    /// session, with or without a port.
    #[inline(always)]
    fn take<'s>(
        &'s self,
        request: &BindRequest<'_>,
        owner: Owner,
        now: Tick,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Taken<'s>, BindError> {
        // First of all, so that a guest over its limit leaves no ports resting for others.
        let shown = self.enter_with_mapping(request, now)?;
        let found = self.shown(request, shown).inspect_err(|_| {
            self.leave_mapping(owner, request.protocol);
            self.leave_session(request, shown);
        });
        let (address, space) = found?;
        let wish = Wish {
            owner,
            allowed: Allowed::new(request.pool, address, request.protocol),
            hold_units: Coarse::units(request.pool.hold),
            now: now.coarse(),
        };
        let is_shared = request.was_taken || space.overloaded.load(Ordering::Relaxed) > 0;
        let port = space.ports.take(
            &wish,
            |draw| self.random(space, draw),
            |port| !is_shared || unused(space.endpoint(port)),
        );
        if port.is_none() {
            self.leave_mapping(owner, request.protocol);
        }
        Ok((address.address, port.map(|port| (space, port))))
    }

    /// Counts the session of a request, if it is to be counted. Returns the pool address that it shows, if
    /// that is settled.
    fn enter_session(
        &self,
        request: &BindRequest<'_>,
        shows: Shows<'_>,
        now: Tick,
    ) -> Result<Option<Ipv4Addr>, BindError> {
        let Some(limits) = request.session else { return Ok(request.paired) };
        let guest = request.internal.address;
        let entered = self.guests.enter(request.realm, guest, limits, shows, now);
        entered.map_err(BindError::Refused)
    }

    /// The same with an address of the pool, and a mapping, which always is.
    #[inline(always)]
    fn enter_with_mapping(
        &self,
        request: &BindRequest<'_>,
        now: Tick,
    ) -> Result<Option<Ipv4Addr>, BindError> {
        let &BindRequest { realm, protocol, limits, pool, .. } = request;
        let guest = request.internal.address;
        let entered = match request.session {
            Some(session) => {
                let (limits, shows) = ((session, limits), Shows::OneOf(pool));
                self.guests.enter_with_mapping(realm, guest, limits, (protocol, shows), now)
            }
            None => {
                let entered = self.guests.enter_mapping(realm, guest, protocol, limits);
                entered.map(|()| request.paired)
            }
        };
        entered.map_err(BindError::Refused)
    }

    /// Takes back what [`Self::enter_session`] counted.
    fn leave_session(&self, request: &BindRequest<'_>, shown: Option<Ipv4Addr>) {
        if request.session.is_some() {
            self.guests.leave(request.realm, request.internal.address, shown);
        }
    }

    pub(super) fn leave_mapping(&self, owner: Owner, protocol: Protocol) {
        self.guests.leave_mapping(owner.realm(), owner.internal().address, protocol);
    }

    /// An external endpoint that others use too, but not to this remote. No lock is held.
    fn overload(
        &self,
        request: &BindRequest<'_>,
        owner: Owner,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Bound, BindError> {
        let (address, space) = self.paired(request, request.paired)?;
        if !request.pool.overload {
            return Err(BindError::PortsExhausted);
        }
        let allowed = Allowed::new(request.pool, address, request.protocol);
        let passes = allowed.passes(owner.port());
        let pass = passes.iter().flatten().next().ok_or(BindError::PortsExhausted)?;
        let mut candidate = owner.port();
        let draws = space.ports.draws(&allowed, owner.port(), OVERLOAD_ATTEMPTS);
        for (attempt, draw) in (1..).zip(draws) {
            let external = space.endpoint(candidate);
            if allowed.contains(candidate) && unused(external) {
                space.overloaded.fetch_add(1, Ordering::Relaxed);
                return Ok(Bound { external, overloaded: true, is_new: false });
            }
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

    /// The pool address that a request's session shows. Tells the guest's count, if the session was counted
    /// without one.
    #[inline(always)]
    fn shown<'s, 'p>(
        &'s self,
        request: &BindRequest<'p>,
        shown: Option<Ipv4Addr>,
    ) -> Result<(&'p PoolAddress, &'s Space), BindError> {
        let (pooled, space) = self.paired(request, shown)?;
        if shown.is_none() && request.session.is_some() {
            self.guests.show(request.realm, request.internal.address, pooled.address);
        }
        Ok((pooled, space))
    }

    /// The pool address of a guest: the same for all its sessions and protocols (RFC 4787, REQ-2),
    /// also when the pool grows while some live; of guests without any, most keep theirs (rendezvous
    /// hashing).
    #[inline(always)]
    pub(super) fn paired<'s, 'p>(
        &'s self,
        request: &BindRequest<'p>,
        paired: Option<Ipv4Addr>,
    ) -> Result<(&'p PoolAddress, &'s Space), BindError> {
        let guest = (request.realm.as_raw(), request.internal.address.to_bits());
        let addresses = &request.pool.addresses;
        let address = match addresses.as_slice() {
            [only] => only,
            several => paired
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

/// The address that a session shows, and the port there that it has for itself, if it has one.
type Taken<'s> = (Ipv4Addr, Option<(&'s Space, u16)>);

/// What became of a request for an endpoint's present mapping.
enum Reuse {
    /// It serves, and has one more reference.
    Bound(Bound),
    /// There is one, but not for this remote.
    Conflict,
    /// There is none.
    None,
}

/// Ports tried for an overloaded session before it is given up.
const OVERLOAD_ATTEMPTS: u32 = 128;
