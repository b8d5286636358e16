"""Results as DICOM objects that an archive keeps beside the slide (extra ``dicom``).

``context`` is what a user states of a slide that is no DICOM, ``source`` the patient, study,
specimen and picture that objects belong to, ``codes`` the concepts they are written in. Then one
file for each kind of object: ``structured_report``, ``attention_map``, ``top_tiles``,
``pdf_object``. ``dicom_files`` beside this puts them into a report's folder.
"""
