"""The commands of ``deltamem baseline``, one file each."""
