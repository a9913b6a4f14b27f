"""What runs inside the VM. Packaged as ``kvmpc._guest``; this file only makes it a package."""
