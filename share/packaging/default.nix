# Nix: nix-build share/packaging, in a checkout. rust-overlay has the ROM's target.
{
  pkgs ? import <nixpkgs> {
    overlays = [ (import (fetchTarball "https://github.com/oxalica/rust-overlay/archive/master.tar.gz")) ];
  },
}:
let
  rust = pkgs.rust-bin.fromRustupToolchainFile ../../rust-toolchain.toml;
  platform = pkgs.makeRustPlatform {
    cargo = rust;
    rustc = rust;
  };
in
pkgs.stdenv.mkDerivation {
  pname = "qboot-rs";
  version = "0.1.0";
  src = pkgs.lib.cleanSource ../..;
  cargoDeps = platform.importCargoLock { lockFile = ../../Cargo.lock; };
  nativeBuildInputs = [
    rust
    platform.cargoSetupHook
  ];
  buildPhase = ''
    cargo build --frozen --package qboot --bin firmware \
      --features rom --profile rom --target i586-unknown-linux-gnu
    objcopy -O binary target/i586-unknown-linux-gnu/rom/firmware qboot-rs.rom
  '';
  installPhase = ''
    install -Dm644 -t $out/share/qemu qboot-rs.rom
    install -Dm644 -t $out/share/qemu/firmware share/qemu/firmware/60-qboot-rs.json
  '';
}
