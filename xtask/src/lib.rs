//! Host side of qboot: everything that builds, runs and measures the firmware.
