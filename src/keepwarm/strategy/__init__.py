"""What next: shift, verdict, ladder. Decides on numbers, never trains."""
